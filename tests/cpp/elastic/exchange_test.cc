// Real processes: they vote, grow, shrink and are killed, and the sums stay those of one process.
#include "elastic/exchange.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <cstring>
#include <optional>
#include <vector>

#include "cpp/shm/child_process.h"
#include "gtest/gtest.h"

namespace tide::elastic {
namespace {

using testing::Child;
using testing::kDeadline;
using testing::Shared;

constexpr int kWorkers = 6;
constexpr size_t kCount = 5000;
constexpr int kSteps = 12;

/// What the children tell the test.
struct Board {
  std::atomic<uint32_t> news;
  std::atomic<uint64_t> digests[kSteps][kMembersMax];  // by slot
  std::atomic<uint32_t> processes[kSteps];
  std::atomic<int> started;
  std::atomic<int> hold_step{-1};  // a process that reaches it waits until this changes
  std::atomic<int> holding;
};

std::vector<float> Gradient(int worker, uint64_t step, float weight) {
  std::vector<float> values(kCount);
  for (size_t i = 0; i < kCount; ++i) {
    values[i] = static_cast<float>((worker * 31 + step * 7 + i * 13) % 101) * 0.37f - 17.1f +
                weight * 1e-3f;
  }
  return values;
}

uint64_t Digest(const float* values) {
  uint64_t hash = 1469598103934665603u;
  const auto* bytes = reinterpret_cast<const unsigned char*>(values);
  for (size_t i = 0; i < kCount * sizeof(float); ++i) hash = (hash ^ bytes[i]) * 1099511628211u;
  return hash;
}

/// A model of one number that each step changes, so that a repeated or lost step shows.
int Train(Exchange& exchange, Board& board, float weight, bool owes_first) {
  uint64_t step = 0;
  const auto hand_over = [&]() -> bool {
    Member* member = exchange.member();
    if (member == nullptr) return true;
    step = std::max(step, member->first_step());
    while (member->NeedsState()) {
      const auto there = member->AwaitState(step);
      if (!there.ok()) return false;
      if (*there) {
        std::memcpy(&weight, exchange.group()->MapState(4096)->get(), sizeof(weight));
        member->StateReceived();
      } else if (!exchange.Advance(step).value_or(false)) {
        return false;
      }
    }
    if (member->OwesState()) {
      std::memcpy(exchange.group()->MapState(4096)->get(), &weight, sizeof(weight));
      member->StateComplete(sizeof(weight));
    }
    return true;
  };
  if (!exchange.Stand().value_or(false)) return 3;
  if (owes_first) ++board.started;
  if (!hand_over()) return 4;
  while (step < kSteps) {
    if (!exchange.Begin(step).ok()) return 5;
    const Range carried = exchange.carried();
    for (int worker = carried.begin; worker < carried.end; ++worker) {
      const auto gradient = Gradient(worker, step, weight);
      const void* pointer = gradient.data();
      exchange.Fold(worker, {&pointer, 1});
    }
    if (board.hold_step.load() == static_cast<int>(step)) {
      ++board.holding;
      ++board.news;
      shm::FutexWake(board.news, 100);
      testing::Await(board.news, [&] { return board.hold_step.load() != static_cast<int>(step); });
    }
    const auto vote = exchange.Finish(step, step + 1 == kSteps);
    if (!vote.ok()) return 6;
    if (*vote == Vote::kCommitted) {
      const auto* mean = reinterpret_cast<const float*>(exchange.gradients());
      const int slot = exchange.member() != nullptr ? exchange.member()->slot() : 0;
      weight -= mean[17] * 0.1f;
      board.digests[step][slot] = Digest(mean);
      board.processes[step] = static_cast<uint32_t>(exchange.plan().carried.size());
      ++step;
    }
    const auto stays = exchange.Advance(step);
    if (!stays.ok()) return 7;
    if (!*stays) return 0;
    if (!hand_over()) return 4;
  }
  if (exchange.group() != nullptr) exchange.group()->header().finished.store(1);
  return 0;
}

int RunMember(int fd, Board& board) {
  Exchange exchange(kWorkers, {{ElementType::kFloat32, kCount}}, Bytes(64));
  WaitOptions options;
  options.deadline = kDeadline;
  options.frozen = absl::Seconds(1);
  const auto contract = exchange.Attach(UniqueFd(dup(fd)), "same", options);
  if (!contract.ok()) return 2;
  return Train(exchange, board, 1.0f, true);
}

class ExchangeTest : public ::testing::Test {
 protected:
  void Create(uint32_t target) {
    fd_ = *Group::Create({1, kWorkers, target});
    group_ = *Group::Attach(UniqueFd(dup(fd_.get())));
  }
  Child Start() {
    return Child([this] { return RunMember(fd_.get(), *board_); });
  }
  /// Digests of a run without any other process.
  std::vector<uint64_t> Alone() {
    Shared<Board> board;
    Exchange exchange(kWorkers, {{ElementType::kFloat32, kCount}}, Bytes(64));
    EXPECT_EQ(Train(exchange, *board, 1.0f, false), 0);
    std::vector<uint64_t> digests;
    for (int step = 0; step < kSteps; ++step) digests.push_back(board->digests[step][0]);
    return digests;
  }
  void ExpectSameBits() {
    const auto alone = Alone();
    for (int step = 0; step < kSteps; ++step) {
      int seen = 0;
      for (const auto& digest : board_->digests[step]) {
        if (digest.load() == 0) continue;
        ++seen;
        EXPECT_EQ(digest.load(), alone[static_cast<size_t>(step)]) << "step " << step;
      }
      EXPECT_GT(seen, 0) << "step " << step;
    }
  }
  void AwaitHolding(int processes) {
    EXPECT_TRUE(testing::Await(board_->news, [&] { return board_->holding.load() == processes; }));
  }
  void Go(int next_hold) {
    board_->holding = 0;
    board_->hold_step = next_hold;
    ++board_->news;
    shm::FutexWake(board_->news, 100);
  }
  void AwaitReady(int processes) {
    EXPECT_TRUE(testing::Await(group_->header().news, [&] {
      int ready = 0;
      for (const MemberSlot& member : group_->header().members)
        ready += member.state.load() == static_cast<uint32_t>(MemberState::kReady) ? 1 : 0;
      return ready == processes;
    }));
  }

  UniqueFd fd_;
  std::unique_ptr<Group> group_;
  Shared<Board> board_;
};

TEST_F(ExchangeTest, AnyFixedNumberOfProcessesGivesTheSumsOfOne) {
  for (uint32_t processes = 1; processes <= kWorkers; ++processes) {
    SCOPED_TRACE(processes);
    for (auto& step : board_->digests)
      for (auto& digest : step) digest = 0;
    Create(processes);
    std::vector<Child> children;
    for (uint32_t i = 0; i < processes; ++i) children.push_back(Start());
    for (Child& child : children) EXPECT_EQ(child.Wait(), 0);
    for (const auto& step : board_->processes) EXPECT_EQ(step.load(), processes);
    ExpectSameBits();
  }
}

TEST_F(ExchangeTest, AJobGrowsWithAWarmJoinerAndShrinksWithoutLosingAStep) {
  Create(2);
  board_->hold_step = 3;
  Child first = Start(), second = Start();
  AwaitHolding(2);
  Child joiner = Start();
  AwaitReady(3);
  ASSERT_TRUE(group_->Resize(3).ok());
  Go(7);
  AwaitHolding(3);
  EXPECT_EQ(board_->processes[4].load(), 3u);
  ASSERT_TRUE(group_->Resize(1).ok());
  Go(-1);
  EXPECT_EQ(first.Wait() + second.Wait() + joiner.Wait(), 0);
  EXPECT_EQ(board_->processes[kSteps - 1].load(), 1u);
  ExpectSameBits();
}

TEST_F(ExchangeTest, AKilledMembersWorkersAreTakenOverAndTheStepRepeated) {
  Create(3);
  board_->hold_step = 5;
  Child first = Start(), second = Start(), third = Start();
  AwaitHolding(3);
  second.Signal(SIGKILL);
  EXPECT_EQ(second.Wait(), -SIGKILL);
  Go(-1);
  EXPECT_EQ(first.Wait() + third.Wait(), 0);
  EXPECT_EQ(board_->processes[5].load(), 2u);
  ExpectSameBits();
}

TEST_F(ExchangeTest, AllButOneMayDieAtOnce) {
  Create(4);
  board_->hold_step = 2;
  std::vector<Child> children;
  for (int i = 0; i < 4; ++i) children.push_back(Start());
  AwaitHolding(4);
  for (int i = 0; i < 3; ++i) children[static_cast<size_t>(i)].Signal(SIGKILL);
  Go(-1);
  EXPECT_EQ(children[3].Wait(), 0);
  EXPECT_EQ(board_->processes[kSteps - 1].load(), 1u);
  ExpectSameBits();
}

TEST_F(ExchangeTest, AStoppedPeerIsKilledAfterTheGraceAndReplacedByTheOthers) {
  Create(2);
  board_->hold_step = 4;
  Child first = Start(), second = Start();
  AwaitHolding(2);
  second.Signal(SIGSTOP);
  second.AwaitStopped();
  Go(-1);
  EXPECT_EQ(first.Wait(), 0);
  EXPECT_EQ(second.Wait(), -SIGKILL);
  ExpectSameBits();
}

TEST_F(ExchangeTest, ASizeOutsideOfTheBoundsIsRefusedWithThem) {
  Create(1);
  EXPECT_EQ(group_->Resize(0).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(group_->Resize(kWorkers + 1).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_FALSE(Group::Create({2, 1, 1}).ok());
}

TEST_F(ExchangeTest, AProcessWithAnotherModelIsRefused) {
  Create(1);
  Exchange first(kWorkers, {{ElementType::kFloat32, 10}}, Bytes(64));
  EXPECT_TRUE(first.Attach(UniqueFd(dup(fd_.get())), "a", {}).ok());
  Exchange second(kWorkers, {{ElementType::kFloat32, 1000}}, Bytes(64));
  const auto refused = second.Attach(UniqueFd(dup(fd_.get())), "a", {});
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST(NextMembersTest, HighSlotsLeaveAndReadyOnesComeInOrder) {
  EXPECT_EQ(NextMembers(0b1011, 0, 2), 0b0011u);
  EXPECT_EQ(NextMembers(0b0011, 0b11100, 4), 0b01111u);
  EXPECT_EQ(NextMembers(0b0011, 0b00011, 4), 0b00011u);
}

TEST_F(ExchangeTest, AssignedProcessesSumTheirShardsToTheBitsOfOne) {
  const std::vector<Parameter> parameters = {{ElementType::kFloat32, kCount},
                                             {ElementType::kFloat32, 3}};
  const std::vector<float> small = {1, 2, 3};
  const auto train = [&](Exchange& exchange, bool one_by_one) {
    ASSERT_TRUE(*exchange.Stand());
    ASSERT_TRUE(exchange.Begin(0).ok());
    for (int worker = exchange.carried().begin; worker < exchange.carried().end; ++worker) {
      const auto gradient = Gradient(worker, 0, 1);
      const void* pointers[] = {gradient.data(), worker == 4 ? small.data() : nullptr};
      if (!one_by_one) {
        exchange.Fold(worker, pointers);
        continue;
      }
      exchange.Push(worker);
      for (const size_t parameter : {1, 0}) exchange.FoldOne(parameter, pointers[parameter]);
    }
  };
  Exchange alone(kWorkers, parameters, Bytes(64));
  train(alone, false);
  ASSERT_EQ(*alone.Finish(0, true), Vote::kCommitted);
  for (int processes = 1; processes <= kWorkers; ++processes) {
    std::vector<std::unique_ptr<Exchange>> all;
    for (int rank = 0; rank < processes; ++rank) {
      all.push_back(std::make_unique<Exchange>(kWorkers, parameters, Bytes(64)));
      ASSERT_TRUE(all.back()->Assign(rank, processes).ok());
      train(*all.back(), rank % 2 == 0);
    }
    for (int rank = 0; rank < processes; ++rank) {
      Exchange& exchange = *all[static_cast<size_t>(rank)];
      const size_t bytes = exchange.layout().bytes();
      std::vector<const std::byte*> sources;
      for (const Source& source : exchange.plan().sources) {
        sources.push_back(all[static_cast<size_t>(source.rank)]->partials().data() +
                          static_cast<size_t>(source.index) * bytes);
      }
      EXPECT_FALSE(exchange.SumPiece(sources, 0, bytes + 64).ok());
      EXPECT_FALSE(exchange.SumPiece(sources, 4, bytes).ok()) << "it may cut an element";
      const size_t piece = 64 * static_cast<size_t>(processes);  // the last one may be shorter
      for (size_t first = 0; first < bytes; first += piece) {
        std::vector<const std::byte*> from;
        for (const std::byte* source : sources) from.push_back(source + first);
        ASSERT_TRUE(exchange.SumPiece(from, first, std::min(first + piece, bytes)).ok());
      }
      EXPECT_EQ(std::memcmp(exchange.gradients(), alone.gradients(), bytes), 0)
          << "rank " << rank << " of " << processes;
      for (const auto& other : all) {
        const auto* used = reinterpret_cast<const std::byte*>(other->used().data());
        exchange.MergeUsed({used, other->used().size()});
      }
      EXPECT_EQ(exchange.used(), (std::vector<uint8_t>{1, 1}));
    }
  }
  EXPECT_FALSE(alone.Assign(0, kWorkers + 1).ok());
}

}  // namespace
}  // namespace tide::elastic
