// Elastic jobs for Python: a part of torchtide._core.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <unistd.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/options.h"
#include "base/status.h"
#include "bind/interpreter.h"
#include "bind/status_error.h"
#include "elastic/exchange.h"
#include "runtime/runtime.h"
#include "shm/futex.h"
#include "shm/process.h"

namespace py = pybind11;

namespace tide {
namespace {

using bind::ThrowIfError;
using bind::ValueOrThrow;
using elastic::Exchange;

template <typename T>
T Result(absl::StatusOr<T> value) {
  if (!value.ok() && PyErr_Occurred() != nullptr) throw py::error_already_set();  // the interrupt
  return ValueOrThrow(std::move(value));
}

elastic::WaitOptions Options() {
  elastic::WaitOptions options;
  options.deadline = absl::Milliseconds(IntOption("elastic.deadline_ms"));
  options.frozen = absl::Milliseconds(IntOption("elastic.frozen_ms"));
  options.found = absl::Milliseconds(IntOption("elastic.start_ms"));
  options.interrupt = &bind::CheckSignals;
  return options;
}

UniqueFd Duplicate(int fd) {
  UniqueFd copy(dup(fd));
  if (!copy) ThrowIfError(ErrnoStatus("the descriptor of the elastic job"));
  return copy;
}

/// Exchange with the state area mapped while somebody hands over.
class PyExchange {
 public:
  PyExchange(int workers, const std::vector<std::pair<int, size_t>>& parameters,
             int64_t context_bytes) {
    ValueOrThrow(elastic::MakePlan(workers, 1));
    std::vector<elastic::Parameter> typed;
    for (const auto& [type, count] : parameters) {
      if (type < 0 || type > 2) throw py::value_error("element types are 0, 1 and 2");
      typed.push_back({static_cast<elastic::ElementType>(type), count});
    }
    exchange_ = std::make_unique<Exchange>(workers, typed, Bytes(context_bytes));
  }

  std::string Attach(int fd, const std::string& contract) {
    UniqueFd copy = Duplicate(fd);
    absl::StatusOr<std::string> found;
    {
      const bind::WithoutInterpreter released;
      found = exchange_->Attach(std::move(copy), contract, Options());
    }
    return Result(std::move(found));
  }
  /// What the daemon orders is from now on for the job as a whole; needs the runtime.
  static void TakeOrders(int fd) {
    runtime::Runtime* const current = runtime::Runtime::Current();
    if (current == nullptr) return;
    auto group = ValueOrThrow(elastic::Group::Attach(Duplicate(fd)));
    current->TakeOrdersThrough(std::make_shared<runtime::JobOrders>(std::move(group)));
  }
  /// Narrows the bounds of the launcher to those that the script asks for.
  void Bound(uint32_t low, uint32_t high) {
    elastic::Group* group = exchange_->group();
    if (group != nullptr) ThrowIfError(group->Bound(low, high));
  }
  /// Reports count from `base` on: the steps of a checkpoint.
  void StartedAt(uint64_t base) {
    if (exchange_->group() != nullptr) exchange_->group()->header().base.store(base);
  }
  bool Stand() {
    return Waiting([&] { return exchange_->Stand(); });
  }
  bool Advance(uint64_t step) {
    return Waiting([&] { return exchange_->Advance(step); });
  }
  void Begin(uint64_t step) {
    Waiting([&]() -> absl::StatusOr<bool> {
      TIDE_RETURN_IF_ERROR(exchange_->Begin(step));
      return true;
    });
  }
  void Fold(int worker, const std::vector<uintptr_t>& addresses) {
    if (addresses.size() != exchange_->layout().parameters().size())
      throw py::value_error("an address for each parameter is needed");
    const bind::WithoutInterpreter released;
    std::vector<const void*> pointers(addresses.size());
    for (size_t i = 0; i < addresses.size(); ++i)
      pointers[i] = reinterpret_cast<const void*>(addresses[i]);
    exchange_->Fold(worker, pointers);
  }
  void Push(int worker) { exchange_->Push(worker); }
  void FoldOne(size_t parameter, uintptr_t address) {
    if (parameter >= exchange_->layout().parameters().size())
      throw py::index_error("there is no such parameter");
    const bind::WithoutInterpreter released;
    exchange_->FoldOne(parameter, reinterpret_cast<const void*>(address));
  }
  bool Finish(uint64_t step, bool last) {
    return Waiting([&]() -> absl::StatusOr<bool> {
      TIDE_ASSIGN_OR_RETURN(const elastic::Vote vote, exchange_->Finish(step, last));
      return vote == elastic::Vote::kCommitted;
    });
  }

  py::memoryview Gradients() {
    return py::memoryview::from_memory(exchange_->gradients(),
                                       static_cast<ssize_t>(exchange_->layout().bytes()));
  }
  std::vector<size_t> Offsets() const {
    std::vector<size_t> offsets;
    for (size_t i = 0; i < exchange_->layout().parameters().size(); ++i)
      offsets.push_back(exchange_->layout().offset(i));
    return offsets;
  }
  py::bytes Used() const {
    return {reinterpret_cast<const char*>(exchange_->used().data()), exchange_->used().size()};
  }
  py::memoryview Context(uint64_t step, int worker) {
    return py::memoryview::from_memory(exchange_->context(step, worker),
                                       static_cast<ssize_t>(exchange_->context_bytes().value()));
  }

  void Assign(int rank, int processes) { ThrowIfError(exchange_->Assign(rank, processes)); }
  py::memoryview Partials() {
    const auto bytes = exchange_->partials();
    return py::memoryview::from_memory(bytes.data(), static_cast<ssize_t>(bytes.size()));
  }
  void SumPiece(const std::vector<uintptr_t>& addresses, size_t first, size_t last) {
    if (addresses.size() != exchange_->plan().sources.size())
      throw py::value_error("an address for each partial sum is needed");
    std::vector<const std::byte*> sources;
    for (const uintptr_t address : addresses)
      sources.push_back(reinterpret_cast<const std::byte*>(address));
    absl::Status summed;
    {
      const bind::WithoutInterpreter released;
      summed = exchange_->SumPiece(sources, first, last);
    }
    ThrowIfError(summed);
  }
  void MergeUsed(const py::bytes& bytes) {
    const std::string used(bytes);
    if (used.size() != exchange_->used().size())
      throw py::value_error("a mark for each parameter is needed");
    exchange_->MergeUsed({reinterpret_cast<const std::byte*>(used.data()), used.size()});
  }
  /// Partial sums of each rank.
  std::vector<int> PartialCounts() const {
    std::vector<int> counts(exchange_->plan().carried.size());
    for (const elastic::Source& source : exchange_->plan().sources)
      ++counts[static_cast<size_t>(source.rank)];
    return counts;
  }

  py::dict Place() {
    elastic::Member* member = exchange_->member();
    py::dict place;
    place["generation"] = member != nullptr ? member->generation() : 0;
    place["rank"] = exchange_->rank();
    place["processes"] = exchange_->plan().carried.size();
    place["first_step"] = member != nullptr ? member->first_step() : 0;
    place["begin"] = exchange_->carried().begin;
    place["end"] = exchange_->carried().end;
    place["byte_factor"] = exchange_->plan().byte_factor;
    place["reason"] = exchange_->plan().reason;
    place["owes_state"] = member != nullptr && member->OwesState();
    place["needs_state"] = member != nullptr && member->NeedsState();
    return place;
  }
  bool AwaitState(uint64_t step) {
    return Waiting([&] { return exchange_->member()->AwaitState(step); });
  }
  py::memoryview State(size_t bytes) {
    elastic::Group& group = *exchange_->group();
    const size_t size = bytes != 0 ? bytes : group.header().state_bytes.load();
    state_.reset();
    state_ = ValueOrThrow(group.MapState(size));
    return py::memoryview::from_memory(state_.get(), static_cast<ssize_t>(size));
  }
  void StateDone(size_t bytes) {
    state_.reset();
    if (bytes != 0) {
      exchange_->member()->StateComplete(bytes);
    } else {
      exchange_->member()->StateReceived();
    }
  }
  void DropState() { exchange_->group()->DropState(); }
  void ExpectState(uint64_t bytes) {
    if (exchange_->group() != nullptr) exchange_->group()->header().state_expected.store(bytes);
  }
  void Training(bool over) {
    if (exchange_->group() == nullptr) return;
    if (over) exchange_->group()->header().finished.store(1);
    exchange_->member()->Leave();
  }
  bool PauseDue(uint64_t step) const {
    return exchange_->member() != nullptr && exchange_->member()->PauseDue(step);
  }
  bool RegroupDue(uint64_t step) const {
    return exchange_->member() != nullptr && exchange_->member()->RegroupDue(step);
  }
  void AwaitOrders(uint64_t step, uint64_t limit) {
    Waiting([&]() -> absl::StatusOr<bool> {
      TIDE_RETURN_IF_ERROR(exchange_->member()->AwaitOrders(step, limit));
      return true;
    });
  }
  bool PauseWanted() const {
    return exchange_->member() != nullptr && exchange_->member()->PauseWanted();
  }
  void SayPaused(bool paused) { exchange_->member()->SayPaused(paused); }
  void Hold(bool held) {
    if (exchange_->member() != nullptr) exchange_->member()->Hold(held);
  }
  /// (word that names it, bytes of the whole job).
  py::tuple Limit() {
    const uint64_t word =
        exchange_->group() != nullptr ? exchange_->group()->header().limit.load() : 0;
    return py::make_tuple(word, elastic::LimitWord::Bytes(word));
  }
  void LimitDone(uint64_t word, const std::optional<uint64_t>& smallest, uint64_t moved) {
    exchange_->member()->LimitDone(word, smallest.value_or(elastic::kLimitImpossible), moved);
  }
  py::tuple Times() const {
    return py::make_tuple(absl::ToDoubleSeconds(exchange_->times().waited),
                          absl::ToDoubleSeconds(exchange_->times().summed));
  }

 private:
  template <typename F>
  static bool Waiting(F&& wait) {
    absl::StatusOr<bool> result;
    {
      const bind::WithoutInterpreter released;
      result = wait();
    }
    return Result(std::move(result));
  }

  std::unique_ptr<Exchange> exchange_;
  elastic::Group::StateMapping state_;
};

/// What a launcher and the command line see of a job.
class PyGroup {
 public:
  explicit PyGroup(int fd) : group_(ValueOrThrow(elastic::Group::Attach(Duplicate(fd)))) {}

  void Resize(uint32_t target) { ThrowIfError(group_->Resize(target)); }
  py::dict Report() {
    const elastic::GroupHeader& header = group_->header();
    const uint32_t latest = header.latest.load();
    const bool sealed =
        elastic::SealingWord::State(header.sealing.load()) == elastic::Sealing::kSealed;
    const uint64_t word = latest > 0 ? header.generations[latest - 1].load() : 0;
    py::list pids, ready, whole, members;
    for (int slot = 0; slot < elastic::kMembersMax; ++slot) {
      const elastic::MemberSlot& member = header.members[slot];
      if ((elastic::GenerationWord::Members(word) >> slot & 1) != 0) {
        pids.append(member.pid.load());
        const bool alive = shm::ProcessAlive(member.pid.load(), member.start_time.load());
        if (alive) members.append(MemberReport(member));
        if (alive && member.has_state.load() != 0) whole.append(member.pid.load());
      } else if (member.state.load() == static_cast<uint32_t>(elastic::MemberState::kReady) &&
                 member.entered.load() == 0) {
        // One that has trained and is a member no more ends by itself, when the script's body of
        // its last step is over.
        ready.append(member.pid.load());
      }
    }
    py::dict report;
    report["target"] = header.target.load();
    report["low"] = header.low.load();
    report["high"] = header.high.load();
    report["workers"] = sealed ? header.geometry.workers : 0;
    report["generation"] = latest > 0 ? py::object(py::int_(latest - 1)) : py::none();
    const uint64_t base = header.base.load();
    report["first_step"] = base + elastic::GenerationWord::Step(word);
    report["steps"] = base + header.steps.load();
    report["pids"] = pids;
    report["with_state"] = whole;
    report["standing_by"] = ready;
    report["finished"] = header.finished.load() != 0;
    report["pausing"] = elastic::PauseWord::Wanted(header.pause.load());
    const uint64_t limit = header.limit.load();
    report["limit_word"] = limit;
    report["limit"] = elastic::LimitWord::Bytes(limit);
    report["members"] = members;
    return report;
  }
  uint32_t Pause(bool wanted) { return ValueOrThrow(group_->Pause(wanted)); }
  uint64_t Limit(uint64_t bytes) { return ValueOrThrow(group_->Limit(bytes)); }
  bool AwaitNews(uint32_t seen, double seconds) {
    const bind::WithoutInterpreter released;
    shm::FutexWait(group_->header().news, seen, absl::Seconds(seconds));
    return group_->header().news.load() != seen;
  }
  uint32_t News() const { return group_->header().news.load(); }

 private:
  static py::dict MemberReport(const elastic::MemberSlot& member) {
    py::dict report;
    report["pid"] = member.pid.load();
    report["paused"] = member.paused.load() != 0;
    report["limit_done"] = member.limit_done.load();
    const uint64_t smallest = member.limit_smallest.load();
    report["limit_smallest"] = smallest == elastic::kLimitImpossible
                                   ? py::object(py::none())
                                   : py::object(py::int_(smallest));
    report["limit_moved"] = member.limit_moved.load();
    return report;
  }

  std::unique_ptr<elastic::Group> group_;
};

int CreateGroup(uint32_t low, uint32_t high, uint32_t target) {
  return ValueOrThrow(elastic::Group::Create({low, high, target})).release();
}

}  // namespace
}  // namespace tide

namespace {

void BindElasticFunctions(py::module_& module) {
  module.def("elastic_create", &tide::CreateGroup, py::arg("low"), py::arg("high"),
             py::arg("target"),
             "Descriptor of the memory file of a new elastic job. Raises ValueError.");
  module.def(
      "elastic_checksum",
      [](uintptr_t address, size_t bytes) {
        const tide::bind::WithoutInterpreter released;
        return tide::elastic::Checksum(reinterpret_cast<const void*>(address), bytes);
      },
      py::arg("address"), py::arg("bytes"),
      "A number that differs where a byte of the memory differs, as good as always.");
  module.def(
      "elastic_plan",
      [](int workers, int processes) {
        const auto plan = tide::bind::ValueOrThrow(tide::elastic::MakePlan(workers, processes));
        std::vector<std::pair<int, int>> ranges;
        for (const auto& range : plan.carried) ranges.emplace_back(range.begin, range.end);
        return py::make_tuple(ranges, plan.byte_factor, plan.reason);
      },
      py::arg("workers"), py::arg("processes"),
      "Who carries which logical workers: (ranges by rank, byte factor, reason).");
}

}  // namespace

/// Adds ElasticExchange, ElasticGroup and the functions about sizes to `module`.
void BindElastic(py::module_& module) {
  using tide::PyExchange;
  using tide::PyGroup;
  BindElasticFunctions(module);
  py::class_<PyExchange>(module, "ElasticExchange", "One process's part of an elastic job.")
      .def(py::init<int, const std::vector<std::pair<int, size_t>>&, int64_t>(), py::arg("workers"),
           py::arg("parameters"), py::arg("context_bytes"))
      .def("attach", &PyExchange::Attach, py::arg("fd"), py::arg("contract"))
      .def_static("take_orders", &PyExchange::TakeOrders, py::arg("fd"))
      .def("bound", &PyExchange::Bound, py::arg("low"), py::arg("high"))
      .def("started_at", &PyExchange::StartedAt, py::arg("base"))
      .def("stand", &PyExchange::Stand)
      .def("advance", &PyExchange::Advance, py::arg("step"))
      .def("begin", &PyExchange::Begin, py::arg("step"))
      .def("fold", &PyExchange::Fold, py::arg("worker"), py::arg("addresses"))
      .def("push", &PyExchange::Push, py::arg("worker"))
      .def("fold_one", &PyExchange::FoldOne, py::arg("parameter"), py::arg("address"))
      .def("finish", &PyExchange::Finish, py::arg("step"), py::arg("last"))
      .def("gradients", &PyExchange::Gradients, py::keep_alive<0, 1>())
      .def("offsets", &PyExchange::Offsets)
      .def("used", &PyExchange::Used)
      .def("context", &PyExchange::Context, py::arg("step"), py::arg("worker"),
           py::keep_alive<0, 1>())
      .def("place", &PyExchange::Place)
      .def("await_state", &PyExchange::AwaitState, py::arg("step"))
      .def("state", &PyExchange::State, py::arg("bytes") = 0, py::keep_alive<0, 1>())
      .def("state_done", &PyExchange::StateDone, py::arg("bytes") = 0)
      .def("drop_state", &PyExchange::DropState)
      .def("expect_state", &PyExchange::ExpectState, py::arg("bytes"))
      .def("leave", &PyExchange::Training, py::arg("over"))
      .def("assign", &PyExchange::Assign, py::arg("rank"), py::arg("processes"))
      .def("partials", &PyExchange::Partials, py::keep_alive<0, 1>())
      .def("partial_counts", &PyExchange::PartialCounts)
      .def("sum_piece", &PyExchange::SumPiece, py::arg("addresses"), py::arg("first"),
           py::arg("last"))
      .def("merge_used", &PyExchange::MergeUsed, py::arg("used"))
      .def("pause_due", &PyExchange::PauseDue, py::arg("step"))
      .def("regroup_due", &PyExchange::RegroupDue, py::arg("step"))
      .def("await_orders", &PyExchange::AwaitOrders, py::arg("step"), py::arg("limit"))
      .def("pause_wanted", &PyExchange::PauseWanted)
      .def("say_paused", &PyExchange::SayPaused, py::arg("paused"))
      .def("hold", &PyExchange::Hold, py::arg("held"))
      .def("limit", &PyExchange::Limit)
      .def("limit_done", &PyExchange::LimitDone, py::arg("word"), py::arg("smallest"),
           py::arg("moved"))
      .def("times", &PyExchange::Times);
  py::class_<PyGroup>(module, "ElasticGroup", "An elastic job seen from outside.")
      .def(py::init<int>(), py::arg("fd"))
      .def("resize", &PyGroup::Resize, py::arg("target"))
      .def("pause", &PyGroup::Pause, py::arg("wanted"))
      .def("limit", &PyGroup::Limit, py::arg("bytes"))
      .def("report", &PyGroup::Report)
      .def("news", &PyGroup::News)
      .def("await_news", &PyGroup::AwaitNews, py::arg("seen"), py::arg("seconds"));
}
