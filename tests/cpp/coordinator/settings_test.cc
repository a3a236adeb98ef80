// Limits and their like, from command to answer.
#include "cpp/coordinator/fakes.h"

namespace tide::coordinator {
namespace {

class SettingsTest : public CoreTest {
 protected:
  SettingsTest() : job_(StartJob("train", 10)), cli_(Cli()) {}
  void Limit(int64_t bytes, uint64_t request_id = 1) {
    Say(cli_, wire::Command{.what = "limit", .job = "train", .bytes = bytes}, request_id);
  }
  const Job& job() { return *core_->state().FindJob("train"); }
  PeerId job_, cli_;
};

TEST_F(SettingsTest, ALimitIsGrantedAcknowledgedAndAnsweredWithWhatMoved) {
  Limit(700 << 20);
  const auto grant = Take<wire::Grant>(job_);
  EXPECT_EQ(grant->revision, 1);
  EXPECT_EQ(grant->max_bytes, 700 << 20);
  EXPECT_FALSE(Take<wire::Answer>(cli_)) << "the job has not answered yet";
  Say(job_, wire::GrantAck{.revision = 1, .moved_bytes = 412 << 20, .took_ms = 31.5});
  const auto answer = Take<wire::Answer>(cli_);
  EXPECT_TRUE(answer->ok);
  EXPECT_EQ(answer->data.Text("status"), "applied");
  EXPECT_EQ(answer->data.Int("moved_bytes"), 412 << 20);
  EXPECT_EQ(answer->data.Int("previous"), 0);
  EXPECT_EQ(answer->data.Text("text"),
            "limit of train none -> 700 MiB: applied, 412 MiB moved in 31 ms");
}

TEST_F(SettingsTest, ALimitBelowWhatIsGuaranteedIsRefusedAndNothingIsSent) {
  const PeerId job = StartJob("kept", 11, {.min_bytes = 3ll << 30});
  Take<wire::Grant>(job);
  const int64_t revision = core_->state().FindJob("kept")->revision;
  const auto refused = [&](wire::Command command) {
    Say(cli_, std::move(command), 5);
    const auto answer = Take<wire::Answer>(cli_);
    EXPECT_EQ(answer->error->code, "invalid");
    EXPECT_FALSE(Take<wire::Grant>(job));
    EXPECT_EQ(core_->state().FindJob("kept")->revision, revision);
    return answer->error->message + "; " + answer->error->advice;
  };
  EXPECT_EQ(
      refused({.what = "limit", .job = "kept", .bytes = 1 << 30}),
      "a limit of 1 GiB is below the 3 GiB that are guaranteed to the job; the old one stays; "
      "for instance: tide limit kept 3072MiB");
  Say(cli_, wire::Command{.what = "limit", .job = "kept", .bytes = 3ll << 30}, 6);
  EXPECT_EQ(Take<wire::Grant>(job)->max_bytes, 3ll << 30) << "just as much is possible";
  Say(job, wire::GrantAck{.revision = revision + 1});
  EXPECT_TRUE(Take<wire::Answer>(cli_)->ok);
  Say(cli_, wire::Command{.what = "guaranteed", .job = "kept", .bytes = 4ll << 30}, 7);
  EXPECT_EQ(Take<wire::Answer>(cli_)->error->code, "invalid") << "nor more than the limit";
  Say(cli_, wire::Command{.what = "limit", .job = "kept", .bytes = 0}, 8);
  EXPECT_EQ(Take<wire::Grant>(job)->max_bytes, 0) << "0 is none";
}

TEST_F(SettingsTest, AConflictKeepsTheOldLimitAndNamesTheParts) {
  Limit(700 << 20);
  Say(job_, wire::GrantAck{.revision = 1});
  Take<wire::Answer>(cli_);
  Limit(1 << 20);
  Say(job_, wire::GrantAck{.revision = 2,
                           .status = wire::GrantStatus::kConflict,
                           .overage_bytes = 319 << 20,
                           .parts = {{"pinned", 300 << 20}, {"in use", 20 << 20}},
                           .max_bytes = 700 << 20});
  const auto answer = Take<wire::Answer>(cli_);
  EXPECT_EQ(answer->error->code, "conflict");
  EXPECT_EQ(answer->error->message,
            "limit of train 700 MiB -> 1 MiB: refused by the job, 319 MiB above it cannot move "
            "(pinned 300 MiB, in use 20 MiB)");
  EXPECT_NE(answer->error->advice.find("its limit stays 700 MiB"), std::string::npos);
  EXPECT_EQ(job().wanted.limit_bytes, 700 << 20);
  Pass(absl::Seconds(30));
  EXPECT_FALSE(Take<wire::Grant>(job_).has_value() && Take<wire::Grant>(job_)->revision > 2);
}

TEST_F(SettingsTest, ALimitThatAJobSetsItselfIsTheDaemonsFromThenOn) {
  Limit(700 << 20);
  Say(job_, wire::GrantAck{.revision = 1});
  Take<wire::Answer>(cli_);
  Take<wire::Grant>(job_);
  Say(job_, wire::Report{.phase = "running", .revision = 1, .max_bytes = 700 << 20});
  EXPECT_EQ(job().wanted.limit_bytes, 700 << 20);
  Say(job_, wire::Report{.phase = "running", .revision = 2, .max_bytes = 300 << 20});
  EXPECT_EQ(job().wanted.limit_bytes, 300 << 20);
  Say(job_, wire::Report{.phase = "running", .revision = 1, .max_bytes = 700 << 20});
  EXPECT_EQ(job().wanted.limit_bytes, 300 << 20) << "an old report changes nothing";
  Say(cli_, wire::Command{.what = "priority", .job = "train", .priority = "guaranteed"}, 2);
  const auto grant = Take<wire::Grant>(job_);
  EXPECT_EQ(grant->revision, 3) << "a number that the job has not used";
  EXPECT_EQ(grant->max_bytes, 300 << 20);
}

TEST_F(SettingsTest, TheNumberThatBothTookBelongsToTheJob) {
  Limit(700 << 20);
  EXPECT_EQ(Take<wire::Grant>(job_)->revision, 1);
  Say(job_, wire::GrantAck{.revision = 1, .status = wire::GrantStatus::kStale});
  EXPECT_EQ(Take<wire::Answer>(cli_)->data.Text("status"), "stale");
  Say(job_, wire::Report{.phase = "running", .revision = 1, .max_bytes = 300 << 20});
  EXPECT_EQ(job().wanted.limit_bytes, 300 << 20);
  EXPECT_EQ(job().settled_revision, 1);
}

TEST_F(SettingsTest, ADeferredChangeIsAnsweredWhenItIsAppliedOrWhenTimeIsUp) {
  Limit(5 << 20);
  Say(job_, wire::GrantAck{.revision = 1, .status = wire::GrantStatus::kDeferred});
  EXPECT_FALSE(Take<wire::Answer>(cli_));
  Pass(absl::Seconds(11));
  EXPECT_EQ(Take<wire::Answer>(cli_)->data.Text("status"), "deferred");
  Say(job_, wire::GrantAck{.revision = 1});
  EXPECT_EQ(job().settled_revision, 1);
}

TEST_F(SettingsTest, ASilentJobIsAnsweredAsPendingAfterTenSecondsAndAskedAgain) {
  Limit(5 << 20);
  Take<wire::Grant>(job_);
  Pass(absl::Seconds(3));
  EXPECT_EQ(Take<wire::Grant>(job_)->revision, 1);
  Pass(absl::Seconds(8));
  EXPECT_EQ(Take<wire::Answer>(cli_)->data.Text("status"), "pending");
}

TEST_F(SettingsTest, ANewerChangeMakesAnOlderOneStale) {
  Limit(5 << 20, 1);
  Limit(6 << 20, 2);
  Say(job_, wire::GrantAck{.revision = 2});
  EXPECT_EQ(Take<wire::Answer>(cli_)->data.Text("status"), "stale");
  EXPECT_EQ(Take<wire::Answer>(cli_)->data.Text("status"), "applied");
  Say(job_, wire::GrantAck{.revision = 1});
  EXPECT_EQ(job().wanted.limit_bytes, 6 << 20);
  EXPECT_EQ(job().settled_revision, 2);
}

TEST_F(SettingsTest, TheSameLimitAgainIsAnsweredAtOnce) {
  Limit(5 << 20);
  Say(job_, wire::GrantAck{.revision = 1});
  Take<wire::Answer>(cli_);
  Limit(5 << 20);
  EXPECT_EQ(Take<wire::Answer>(cli_)->data.Text("status"), "applied");
  EXPECT_EQ(job().revision, 1);
}

TEST_F(SettingsTest, ValuesOutOfRangeAreRefusedWithTheirRange) {
  const auto error = [&](wire::Command command) {
    command.job = "train";
    return Ask(command).error.value_or(wire::AnswerError{});
  };
  EXPECT_NE(error({.what = "limit", .bytes = -1}).message.find("0 (none) to"), std::string::npos);
  EXPECT_EQ(error({.what = "limit"}).message, "limit needs bytes");
  EXPECT_NE(error({.what = "priority", .priority = "huge"})
                .message.find("opportunistic, normal, guaranteed"),
            std::string::npos);
  EXPECT_EQ(error({.what = "weight", .weight = 0}).code, "invalid");
  EXPECT_EQ(error({.what = "fly"}).code, "invalid");
  EXPECT_EQ(job().revision, 0);
}

TEST_F(SettingsTest, PriorityWeightAndGuaranteeTravelInTheSameGrant) {
  Say(cli_, wire::Command{.what = "priority", .job = "train", .priority = "guaranteed"}, 1);
  Say(cli_, wire::Command{.what = "weight", .job = "train", .weight = 2.5}, 2);
  Say(cli_, wire::Command{.what = "guaranteed", .job = "train", .bytes = 7}, 3);
  Take<wire::Grant>(job_), Take<wire::Grant>(job_);
  const auto grant = Take<wire::Grant>(job_);
  EXPECT_EQ(grant->revision, 3);
  EXPECT_EQ(grant->priority, wire::Priority::kGuaranteed);
  EXPECT_EQ(grant->weight, 2.5);
  EXPECT_EQ(grant->guaranteed_bytes, 7);
}

TEST_F(SettingsTest, AnUnknownJobIsAnsweredWithTheNamesThatExist) {
  const auto error = Ask(wire::Command{.what = "limit", .job = "trian", .bytes = 1}).error;
  EXPECT_EQ(error->code, "not_found");
  EXPECT_EQ(error->message, "no job is named \"trian\"");
  EXPECT_EQ(error->advice, "jobs: train");
}

TEST_F(SettingsTest, ALimitForAJobThatIsAwayIsRecordedAndSentWhenItIsBack) {
  core_->Closed(job_);
  Limit(5 << 20);
  EXPECT_EQ(Take<wire::Answer>(cli_)->data.Text("status"), "pending");
  Restart();
  const PeerId back = StartJob("train", 10, {.job_id = 1});
  EXPECT_EQ(Take<wire::Grant>(back)->max_bytes, 5 << 20);
}

TEST_F(SettingsTest, AnAcknowledgedLimitSurvivesAKillOfTheDaemon) {
  Limit(5 << 20);
  Say(job_, wire::GrantAck{.revision = 1});
  EXPECT_EQ(Take<wire::Answer>(cli_)->data.Text("status"), "applied");
  Restart();
  EXPECT_EQ(job().wanted.limit_bytes, 5 << 20);
  EXPECT_EQ(job().settled_revision, 1);
}

TEST_F(SettingsTest, AClientThatLeftIsNotAnswered) {
  Limit(5 << 20);
  core_->Closed(cli_);
  Say(job_, wire::GrantAck{.revision = 1});
  EXPECT_FALSE(Take<wire::Answer>(cli_));
}

TEST_F(SettingsTest, ADeadJobFailsWhatWaitsForIt) {
  Limit(5 << 20);
  End("train", {.signal = 9});
  EXPECT_EQ(Take<wire::Answer>(cli_)->error->code, "failed");
}

TEST_F(SettingsTest, TheTurnPolicyOfALaneIsWrittenIntoTheTable) {
  EXPECT_EQ(Ask(wire::Command{.what = "policy", .policy = "srtf"}).error->message,
            "no device table exists yet");
  device_.Add(0, 10, "train");
  const auto answer = Ask(wire::Command{.what = "policy", .lane = 1, .policy = "srtf"});
  EXPECT_EQ(answer.data.Text("text"), "turn policy of lane 1 fair -> srtf");
  EXPECT_EQ(edges_->policies[1], sched::TurnPolicyId::kSrtf);
  EXPECT_EQ(Ask(wire::Command{.what = "policy", .policy = "best"}).error->code, "invalid");
  EXPECT_EQ(Ask(wire::Command{.what = "policy", .lane = 99, .policy = "fifo"}).error->code,
            "invalid");
}

}  // namespace
}  // namespace tide::coordinator
