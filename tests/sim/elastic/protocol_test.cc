// The protocol of elastic jobs under a simulated machine: the code of csrc/elastic as it is, with
// processes that are switched, held up, stopped and killed at any of its steps.
//
// TIDE_TEST_SEED=n plays one seed, TIDE_TEST_SEEDS=n that many; a failure prints its seed.
#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "elastic/exchange.h"
#include "gtest/gtest.h"
#include "sim/elastic/machine.h"

namespace tide::elastic {
namespace {

using simulated::Faults;
using simulated::Machine;

constexpr int kWorkers = 5;
constexpr size_t kCount = 24;  // three shards of 64 bytes
constexpr uint64_t kSteps = 6;
constexpr int64_t kStepsMax = 3'000'000;
constexpr uint64_t kSeeds = 3000;

using Mean = std::array<double, kCount>;

Mean Gradient(int worker, uint64_t step, double weight) {
  Mean values;
  for (size_t i = 0; i < kCount; ++i) {
    values[i] = static_cast<double>((static_cast<size_t>(worker) * 31 + step * 7 + i * 13) % 101) +
                weight * 1e-3 + 0.1;
  }
  return values;
}

/// What a logical worker's context must be before `step`: a chain that every step lengthens once.
uint64_t Chain(int worker, uint64_t step) {
  uint64_t value = static_cast<uint64_t>(worker) + 1;
  for (uint64_t i = 0; i < step; ++i) value = value * 6364136223846793005u + i + 1;
  return value;
}

/// What the state of a run is after each step: that of one process that nothing happened to.
struct Reference {
  std::array<double, kSteps + 1> weights{};
  std::array<Mean, kSteps> means{};
};

Exchange MakeExchange() { return Exchange(kWorkers, {{ElementType::kFloat64, kCount}}, Bytes(64)); }

void Fold(Exchange& exchange, uint64_t step, double weight) {
  for (int worker = exchange.carried().begin; worker < exchange.carried().end; ++worker) {
    const Mean gradient = Gradient(worker, step, weight);
    const void* pointer = gradient.data();
    exchange.Fold(worker, {&pointer, 1});
    const uint64_t next = Chain(worker, step + 1);
    std::memcpy(exchange.context(step + 1, worker), &next, sizeof(next));
  }
}

const Reference& Alone() {
  static const Reference reference = [] {
    Reference found;
    Exchange exchange = MakeExchange();
    found.weights[0] = 1;
    EXPECT_TRUE(*exchange.Stand());
    for (uint64_t step = 0; step < kSteps; ++step) {
      EXPECT_TRUE(exchange.Begin(step).ok());
      Fold(exchange, step, found.weights[step]);
      EXPECT_EQ(*exchange.Finish(step, step + 1 == kSteps), Vote::kCommitted);
      std::memcpy(found.means[step].data(), exchange.gradients(), sizeof(Mean));
      found.weights[step + 1] = found.weights[step] - found.means[step][17] * 0.1;
    }
    return found;
  }();
  return reference;
}

/// One job on one machine.
class Job {
 public:
  explicit Job(uint64_t seed)
      : machine_(seed * 2 + 1, Draw(seed)), fd_(*Group::Create({1, kWorkers, first_})) {
    group_ = *Group::Attach(UniqueFd(dup(fd_.get())));
    machine_.OnKill([this] { LookForLoss(); });
  }

  void Play() {
    for (uint32_t i = 0; i < first_; ++i) StartProcess();
    machine_.Start([this] { Launch(); }, [](bool) {}, /*immortal=*/true);
    if (!machine_.Run(kStepsMax)) Fail(absl::StrCat("still at it: ", Shown()));
    const bool done = group_->header().finished.load() != 0;
    if (!lost_ && !done) Fail(absl::StrCat("the training did not end: ", Shown()));
    if (done && last_step_ != kSteps) Fail(absl::StrCat("ended after step ", last_step_));
  }

  const std::string& failure() const { return failure_; }
  bool lost() const { return lost_; }
  int64_t machine_steps() const { return machine_.steps(); }
  int pauses() const { return pauses_; }

 private:
  Faults Draw(uint64_t seed) {
    Random random(seed);
    first_ = static_cast<uint32_t>(random.Below(4) + 1);
    Faults faults;
    faults.kills = static_cast<int>(random.Below(5));
    faults.stops = random.Below(4) == 0 ? static_cast<int>(random.Below(3)) : 0;
    faults.delays = static_cast<int>(random.Below(6));
    faults.within = 300 << random.Below(5);
    faults.switches = 1 << random.Below(5);
    return faults;
  }
  void Fail(const std::string& what) {
    if (failure_.empty()) failure_ = what;
  }

  std::string Shown() const {
    const GroupHeader& header = group_->header();
    std::string text =
        absl::StrCat("target ", header.target.peek(), " latest ", header.latest.peek(), " steps ",
                     header.steps.peek(), " pause ", header.pause.peek(), " started ", started_,
                     " running ", running_);
    for (uint32_t i = 0; header.generations[i].peek() != 0; ++i) {
      const uint64_t word = header.generations[i].peek();
      absl::StrAppend(&text, "\n  generation ", i, ": members ", GenerationWord::Members(word),
                      " source ", GenerationWord::Source(word), " step ",
                      GenerationWord::Step(word));
    }
    for (int slot = 0; slot < kMembersMax; ++slot) {
      const MemberSlot& member = header.members[slot];
      if (member.state.peek() == 0) continue;
      absl::StrAppend(&text, "\n  slot ", slot, " pid ", member.pid.peek(), " state ",
                      member.state.peek(), simulated::Runs(member.pid.peek()) ? "" : " dead",
                      " has ", member.has_state.peek(), " entered ", member.entered.peek(),
                      " published ", member.published.peek() >> 32, ":",
                      member.published.peek() & 0xffffffff, " consumed ", member.consumed.peek());
    }
    return text;
  }

  // Processes that train.

  void StartProcess() {
    ++started_;
    ++running_;
    machine_.Start([this] { TrainAndReport(); }, [this](bool) { --running_; });
  }

  void TrainAndReport() {
    const std::string problem = Train();
    // Who was left without anybody that had the model has nothing to go on with.
    if (!problem.empty() && !lost_)
      Fail(absl::StrCat("process ", simulated::OwnPid(), ": ", problem, "; ", Shown()));
  }

  std::string Train() {
    Exchange exchange = MakeExchange();
    WaitOptions options;
    options.tick = absl::Milliseconds(20);
    options.frozen = absl::Seconds(1);
    options.deadline = absl::Seconds(5);
    const auto contract = exchange.Attach(UniqueFd(dup(fd_.get())), "same", options);
    if (!contract.ok()) return contract.status().ToString();
    std::string problem = TrainIn(exchange);
    exchange.member()->Leave();  // not left to the destructor, in which nothing can be killed
    return problem;
  }

  std::string TrainIn(Exchange& exchange) {
    uint64_t step = 0;
    double weight = Alone().weights[0];
    const auto stays = exchange.Stand();
    if (!stays.ok()) return absl::StrCat("stand: ", stays.status().ToString());
    if (!*stays) return "";
    for (;;) {
      const std::string joined = HandOver(exchange, step, weight);
      if (joined == "left out") return "";
      if (!joined.empty()) return joined;
      if (step == kSteps) break;
      const std::string problem = OneStep(exchange, step, weight);
      if (!problem.empty()) return problem;
      const auto goes_on = exchange.Advance(step);
      if (!goes_on.ok()) return absl::StrCat("advance: ", goes_on.status().ToString());
      if (!*goes_on) return "";
    }
    exchange.group()->header().finished.store(1);
    exchange.group()->Announce();
    return "";
  }

  /// As the training loop does at each boundary: the state to joiners, then what others want.
  std::string HandOver(Exchange& exchange, uint64_t& step, double& weight) {
    struct State {
      uint64_t step;
      double weight;
    };
    Member& member = *exchange.member();
    while (member.NeedsState()) {
      const uint64_t first = member.first_step();
      const auto there = member.AwaitState(first);
      if (!there.ok()) return absl::StrCat("state: ", there.status().ToString());
      if (*there) {
        State state;
        std::memcpy(&state, exchange.group()->MapState(sizeof(State))->get(), sizeof(State));
        step = state.step;
        weight = state.weight;
        if (step != first) return absl::StrCat("state of step ", step, " for step ", first);
        member.StateReceived();
      } else {
        const auto stays = exchange.Advance(first);
        if (!stays.ok()) return absl::StrCat("advance: ", stays.status().ToString());
        if (!*stays) return "left out";
      }
    }
    if (member.OwesState()) {
      const State state{step, weight};
      std::memcpy(exchange.group()->MapState(sizeof(State))->get(), &state, sizeof(State));
      member.StateComplete(sizeof(State));
    }
    while (member.PauseDue(step)) {
      paused_before_[simulated::OwnPid()] = step;
      const auto resumed = member.AwaitOrders(step, 0);
      if (!resumed.ok()) return absl::StrCat("paused: ", resumed.ToString());
      if (!member.RegroupDue(step)) continue;
      const auto stays = exchange.Advance(step);
      if (!stays.ok()) return absl::StrCat("advance: ", stays.status().ToString());
      return *stays ? HandOver(exchange, step, weight) : "left out";
    }
    return "";
  }

  std::string OneStep(Exchange& exchange, uint64_t& step, double& weight) {
    const auto begun = exchange.Begin(step);
    if (!begun.ok()) return absl::StrCat("begin: ", begun.ToString());
    if (machine_.random().Below(64) == 0) {  // its own order holds it, longer than any deadline
      exchange.member()->Hold(true);
      machine_.Delay(absl::Seconds(6));
      exchange.member()->Hold(false);
    }
    for (int worker = exchange.carried().begin; step > 0 && worker < exchange.carried().end;
         ++worker) {
      uint64_t context = 0;
      std::memcpy(&context, exchange.context(step, worker), sizeof(context));
      if (context != Chain(worker, step))
        return absl::StrCat("context of worker ", worker, " is not that of step ", step);
    }
    Fold(exchange, step, weight);
    const auto vote = exchange.Finish(step, step + 1 == kSteps);
    if (!vote.ok()) return absl::StrCat("finish: ", vote.status().ToString());
    if (*vote != Vote::kCommitted) return "";
    const Reference& alone = Alone();
    if (std::memcmp(exchange.gradients(), alone.means[step].data(), sizeof(Mean)) != 0)
      return absl::StrCat("other sums in step ", step);
    weight -= alone.means[step][17] * 0.1;
    ++step;
    if (weight != alone.weights[step]) return absl::StrCat("other weight after step ", step);
    last_step_ = std::max(last_step_, step);
    return "";
  }

  // The launcher, and somebody who gives orders.

  void Launch() {
    Random& random = machine_.random();
    for (int round = 0; round < 200 && !Over(); ++round) {
      machine_.Delay(absl::Microseconds(static_cast<double>(random.Below(400) + 1)));
      const uint64_t what = round < 12 ? random.Below(6) : 99;
      if (what == 0)
        group_->Resize(static_cast<uint32_t>(random.Below(kWorkers) + 1)).IgnoreError();
      if (what == 1) PauseAndResume();
      Keep();
      if (round >= 12) machine_.Delay(absl::Milliseconds(50));
    }
  }

  void Keep() {
    const int wanted = static_cast<int>(group_->header().target.load());
    while (running_ < wanted && started_ < 14 && group_->header().finished.load() == 0)
      StartProcess();
  }

  bool Over() const {
    return group_->header().finished.load() != 0 || (running_ == 0 && (lost_ || started_ == 14));
  }

  void PauseAndResume() {
    if (!group_->Pause(true).ok()) return;
    Clock& clock = simulated::MachineClock();
    const absl::Time end = clock.Now() + absl::Seconds(60);
    while (!AllPaused()) {
      if (Over() || lost_) break;
      if (clock.Now() > end) return Fail("a pause that does not come");
      Keep();
      machine_.Delay(absl::Milliseconds(7));
    }
    if (!Over() && !lost_) ++pauses_;
    if (machine_.random().Below(4) == 0) machine_.Delay(absl::Seconds(20));  // past all deadlines
    group_->Pause(false).IgnoreError();
    // At once again, sometimes: nobody may take the old boundary for the new one.
    if (machine_.random().Below(2) == 0) {
      group_->Pause(true).IgnoreError();
      machine_.Delay(absl::Milliseconds(static_cast<double>(machine_.random().Below(30))));
      group_->Pause(false).IgnoreError();
    }
  }

  bool AllPaused() {
    const GroupHeader& header = group_->header();
    const uint32_t latest = header.latest.load();
    if (latest == 0) return false;
    const uint64_t word = header.generations[latest - 1].load();
    std::set<uint64_t> steps;
    bool all = false;
    for (int slot = 0; slot < kMembersMax; ++slot) {
      const MemberSlot& member = header.members[slot];
      if ((GenerationWord::Members(word) >> slot & 1) == 0) continue;
      if (!simulated::Runs(member.pid.peek())) continue;
      if (member.paused.peek() == 0) return false;
      all = true;
      steps.insert(paused_before_[member.pid.peek()]);
    }
    if (steps.size() > 1) Fail("paused before different steps");
    return all;
  }

  /// Whether a kill has left nobody who has the model and a place in the newest generation, after
  /// something had been trained.
  void LookForLoss() {
    const GroupHeader& header = group_->header();
    uint32_t newest = 0;
    while (newest + 1 < kGenerationsMax && header.generations[newest + 1].peek() != 0) ++newest;
    const uint64_t word = header.generations[newest].peek();
    if (header.steps.peek() == 0 || header.finished.peek() != 0) return;
    for (int slot = 0; slot < kMembersMax; ++slot) {
      const MemberSlot& member = header.members[slot];
      if ((GenerationWord::Members(word) >> slot & 1) != 0 && member.has_state.peek() != 0 &&
          simulated::Runs(member.pid.peek()))
        return;
    }
    lost_ = true;
  }

  uint32_t first_ = 1;
  Machine machine_;
  UniqueFd fd_;
  std::unique_ptr<Group> group_;
  int started_ = 0, running_ = 0, pauses_ = 0;
  bool lost_ = false;
  uint64_t last_step_ = 0;
  std::map<int32_t, uint64_t> paused_before_;
  std::string failure_;
};

std::optional<uint64_t> Number(const char* name) {
  const char* text = std::getenv(name);  // NOLINT(concurrency-mt-unsafe)
  if (text == nullptr) return std::nullopt;
  return std::strtoull(text, nullptr, 10);
}

void PlaySeed(uint64_t seed) {
  Job job(seed);
  job.Play();
  EXPECT_EQ(job.failure(), "") << "TIDE_TEST_SEED=" << seed;
}

/// Each of them failed once; docs/decisions/0019 says how.
TEST(ElasticProtocolTest, SeedsThatFoundAFaultStayMended) {
  for (const uint64_t seed : {30, 79, 152, 179, 271, 422, 488, 885, 2076, 2862, 3395, 6377, 14996})
    PlaySeed(seed);
}

TEST(ElasticProtocolTest, NoInterleavingLosesDoublesOrSplitsAStep) {
  Alone();
  if (const auto seed = Number("TIDE_TEST_SEED")) return PlaySeed(*seed);
  const uint64_t first = Number("TIDE_TEST_FIRST_SEED").value_or(1);
  const uint64_t count = Number("TIDE_TEST_SEEDS").value_or(kSeeds);
  uint64_t lost = 0, paused = 0, steps = 0, failed = 0;
  for (uint64_t seed = first; seed < first + count && failed < 10; ++seed) {
    Job job(seed);
    job.Play();
    EXPECT_EQ(job.failure(), "") << "TIDE_TEST_SEED=" << seed;
    failed += job.failure().empty() ? 0 : 1;
    lost += job.lost() ? 1 : 0;
    paused += static_cast<uint64_t>(job.pauses());
    steps += static_cast<uint64_t>(job.machine_steps());
  }
  std::printf("seeds %llu to %llu: %llu steps, %llu pauses, %llu jobs lost with all their models\n",
              static_cast<unsigned long long>(first),
              static_cast<unsigned long long>(first + count - 1),
              static_cast<unsigned long long>(steps), static_cast<unsigned long long>(paused),
              static_cast<unsigned long long>(lost));
  EXPECT_LT(lost * 3, count) << "most of what is played must have to come out right";
}

}  // namespace
}  // namespace tide::elastic
