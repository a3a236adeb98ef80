// Jobs on the same devices, and jobs whose size the policy chooses.
#include "cpp/coordinator/engine_fixture.h"

namespace tide::coordinator {
namespace {

/// Does what it is told at each decision.
class Told final : public sched::ClusterPolicy {
 public:
  explicit Told(const std::vector<sched::JobAction>* actions) : actions_(actions) {}
  std::unique_ptr<sched::ClusterPolicy> Clone() const override {
    return std::make_unique<Told>(*this);
  }
  sched::ClusterDecision Decide(const sched::ClusterInput&) override {
    return {.actions = *actions_};
  }

 private:
  const std::vector<sched::JobAction>* actions_;
};

std::shared_ptr<const sched::JobProfile> Profile(double busy, std::vector<double> speed = {}) {
  sched::JobProfile profile;
  profile.busy = busy;
  profile.speed = std::move(speed);
  return std::make_shared<const sched::JobProfile>(profile);
}

/// A policy of sizes by name, so that the engine leaves them to it, that does what it is told.
class ClusterSharingTest : public ClusterEngineTest {
 protected:
  ClusterSharingTest() {
    engine_ = *ClusterEngine::MakeWith({.policy = "afs"}, std::make_unique<Told>(&actions_));
    Node("a", 4);
    Node("b", 4);
  }
  std::vector<ClusterChange> Do(std::vector<sched::JobAction> actions) {
    actions_ = std::move(actions);
    Apply({.kind = ClusterInputKind::kReserve,
           .reservation = {.name = "nothing", .devices = 0, .from_s = now_s_, .to_s = now_s_ + 1}});
    return Decide();
  }
  int free() const { return engine_->devices().free(); }
  const sched::JobView& View(const std::string& key) const {
    return engine_->view(engine_->Find(key));
  }

  std::vector<sched::JobAction> actions_;
};

TEST_F(ClusterSharingTest, AGuestIsOnTheDevicesOfItsHostAndTheyCountOnce) {
  Submit({.key = "host", .devices = 3, .profile = Profile(0.4)});
  Submit({.key = "guest", .devices = 3, .profile = Profile(0.8)});
  Do({{.job = JobIndex(0), .reason = "first"},
      {.job = JobIndex(1), .reason = "it fits", .beside = JobIndex(0), .pace = 0.5}});
  EXPECT_EQ(Job("guest").placement, Job("host").placement);
  EXPECT_EQ(View("guest").holding, View("host").holding);
  EXPECT_EQ(free(), 5);
  EXPECT_EQ(Job("guest").reason, "it fits; it shares the devices of host");
  EXPECT_EQ(Job("guest").pace, 0.5);
  EXPECT_LE(View("guest").rate, 0.5) << "it may use half of the time";
  EXPECT_GT(View("guest").rate, 0);
  Finish("host");
  EXPECT_EQ(free(), 5) << "the guest is still there";
  EXPECT_TRUE(Runs("guest"));
  Do({{.job = JobIndex(1), .kind = sched::JobActionKind::kPace, .reason = "alone", .pace = 1}});
  EXPECT_EQ(View("guest").rate, 1);
  Finish("guest");
  EXPECT_EQ(free(), 8);
}

TEST_F(ClusterSharingTest, AHostThatStartsAgainElsewhereIsNotTakenForTheOneThatItsGuestIsWith) {
  Submit({.key = "host", .devices = 2, .profile = Profile(0.4)});
  Submit({.key = "guest", .devices = 2, .profile = Profile(0.4)});
  Do({{.job = JobIndex(0)}, {.job = JobIndex(1), .beside = JobIndex(0)}});
  const int holding = View("guest").holding;
  Do({{.job = JobIndex(0), .kind = sched::JobActionKind::kPreempt, .reason = "a test"},
      {.job = JobIndex(0), .reason = "again"}});
  EXPECT_TRUE(Runs("host"));
  EXPECT_EQ(View("guest").holding, holding);
  EXPECT_NE(View("host").holding, holding);
  EXPECT_EQ(free(), 4);
}

TEST_F(ClusterSharingTest, AGuestThatDoesNotFitItsHostIsPutBackAndThePolicyIsTold) {
  Submit({.key = "host", .devices = 2, .profile = Profile(0.4)});
  Submit({.key = "guest", .devices = 3, .profile = Profile(0.4)});
  Do({{.job = JobIndex(0)}, {.job = JobIndex(1), .beside = JobIndex(0)}});
  EXPECT_FALSE(Runs("guest"));
  EXPECT_EQ(changes_.back().kind, ChangeKind::kPutOff);
  EXPECT_EQ(Job("guest").reason,
            "starting it beside host was not carried out: that job holds 2 devices, "
            "this one asks for 3");
}

TEST_F(ClusterSharingTest, ALostNodeTakesAllWhoShareIt) {
  Submit({.key = "host", .devices = 4, .profile = Profile(0.4)});
  Submit({.key = "guest", .devices = 4, .profile = Profile(0.4)});
  Do({{.job = JobIndex(0)}, {.job = JobIndex(1), .beside = JobIndex(0)}});
  Node("a", 4, false);
  EXPECT_FALSE(Runs("host") || Runs("guest"));
  Node("a", 4);
  EXPECT_EQ(free(), 8);
}

TEST_F(ClusterSharingTest, TheSizesOfAJobWithAKnownCurveAreThePolicys) {
  Submit(
      {.key = "known", .devices = 1, .devices_max = 4, .profile = Profile(1, {1, 1.8, 2.4, 2.8})});
  Submit({.key = "unknown", .group = "of another program", .devices = 1, .devices_max = 4});
  Do({{.job = JobIndex(0), .gpus = 2}, {.job = JobIndex(1)}});
  EXPECT_EQ(Job("known").devices(), 2);
  EXPECT_EQ(View("known").rate, 1.8);
  EXPECT_EQ(Job("unknown").devices(), 4) << "what is idle goes to it as without a policy of sizes";
  const int64_t revision = Job("known").revision;
  now_s_ = 10;
  Do({{.job = JobIndex(0),
       .kind = sched::JobActionKind::kResize,
       .reason = "it gains by it",
       .gpus = 4}});
  EXPECT_EQ(Job("known").devices(), 4);
  EXPECT_EQ(View("known").executed_s, 18);
  EXPECT_EQ(View("known").rate, 2.8);
  EXPECT_GT(Job("known").revision, revision);
  EXPECT_NE(engine_->TakeLog().find("10.000 resize known: it gains by it\n"), std::string::npos);
  Do({{.job = JobIndex(0),
       .kind = sched::JobActionKind::kResize,
       .reason = "others gain more",
       .gpus = 1}});
  EXPECT_EQ(Job("known").devices(), 1);
  EXPECT_EQ(View("known").rate, 1);
  Do({{.job = JobIndex(1), .kind = sched::JobActionKind::kResize, .reason = "so", .gpus = 2}});
  EXPECT_EQ(Job("unknown").reason,
            "resizing it to 2 devices was not carried out (so): what is beyond its gang follows "
            "what is idle");
}

TEST_F(ClusterSharingTest, AnElasticHostGivesBackWhatIsBeyondItsGangBeforeAnotherOneComes) {
  Submit({.key = "host", .devices = 2, .devices_max = 6, .profile = Profile(0.4)});
  Submit({.key = "guest", .devices = 2, .profile = Profile(0.4)});
  Do({{.job = JobIndex(0)}});
  EXPECT_EQ(Job("host").devices(), 6);
  Do({{.job = JobIndex(1), .beside = JobIndex(0)}});
  EXPECT_EQ(Job("host").devices(), 2);
  EXPECT_EQ(Job("guest").placement, Job("host").placement);
  EXPECT_EQ(free(), 6) << "who shares does not grow";
  Finish("guest");
  Do({});
  EXPECT_EQ(Job("host").devices(), 6);
  Finish("host");
  EXPECT_EQ(free(), 8);
}

TEST_F(ClusterSharingTest, AProfileIsThatOfLaterJobsOfTheGroupToo) {
  Submit({.key = "first", .user = "u", .group = "g", .devices = 1, .profile = Profile(0.3)});
  Submit({.key = "second", .user = "u", .group = "g", .devices = 1});
  Submit({.key = "other", .user = "u", .group = "h", .devices = 1});
  EXPECT_EQ(View("second").profile, View("first").profile);
  EXPECT_EQ(View("other").profile, -1);
}

}  // namespace
}  // namespace tide::coordinator
