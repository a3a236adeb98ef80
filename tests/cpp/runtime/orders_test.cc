// The mailbox of orders: the newest grant wins, others are answered, moves keep their order.
#include "runtime/orders.h"

#include "gtest/gtest.h"

namespace tide::runtime {
namespace {

TEST(OrdersTest, ANewerRevisionReplacesAnOlderOneWhichIsAnsweredAsStale) {
  Orders orders;
  std::vector<GrantResult> answers;
  const auto note = [&](const GrantResult& result) { answers.push_back(result); };
  orders.PutGrant({.revision = 5, .limit = MiB(1)}, note);
  orders.PutGrant({.revision = 7, .limit = MiB(2)}, note);
  ASSERT_EQ(answers.size(), 1u);
  EXPECT_EQ(answers[0].revision, 5);
  EXPECT_EQ(answers[0].status, GrantStatus::kStale);
  EXPECT_EQ(orders.TakeGrant()->request.limit, MiB(2));
  EXPECT_FALSE(orders.TakeGrant());
}

TEST(OrdersTest, OldAndRepeatedRevisionsAreStaleEvenAfterTheNewestWasTaken) {
  Orders orders;
  orders.PutGrant({.revision = 7}, nullptr);
  orders.TakeGrant();
  int stale = 0;
  for (const int64_t revision : {6, 7}) {
    orders.PutGrant({.revision = revision}, [&](const GrantResult&) { ++stale; });
  }
  EXPECT_EQ(stale, 2);
  EXPECT_TRUE(orders.Empty());
  EXPECT_EQ(orders.revision(), 7);
}

TEST(OrdersTest, AGrantOfThisProcessTakesTheNextRevision) {
  Orders orders;
  orders.PutGrant({.revision = 7}, nullptr);
  orders.PutGrant({.limit = MiB(3)}, nullptr);
  EXPECT_EQ(orders.TakeGrant()->request.revision, 8);
}

TEST(OrdersTest, MovesComeOutInTheOrderInWhichTheyWerePut) {
  Orders orders;
  orders.PutMove({.order_id = 1, .kind = MoveKind::kSuspend}, nullptr);
  orders.PutMove({.order_id = 2, .kind = MoveKind::kResume}, nullptr);
  EXPECT_FALSE(orders.Empty());
  EXPECT_TRUE(orders.Suspends()) << "the next one";
  EXPECT_EQ(orders.TakeMove()->request.order_id, 1);
  EXPECT_FALSE(orders.Suspends());
  EXPECT_EQ(orders.TakeMove()->request.order_id, 2);
  EXPECT_FALSE(orders.TakeMove());
  EXPECT_TRUE(orders.Empty());
}

}  // namespace
}  // namespace tide::runtime
