// Names, identity, re-attachment and the end of jobs.
#include "coordinator/registration.h"

#include "cpp/coordinator/fakes.h"

namespace tide::coordinator {
namespace {

using RegistrationTest = CoreTest;

TEST_F(RegistrationTest, NamesAreMadeUniqueAmongLiveJobs) {
  EXPECT_EQ(Take<wire::Welcome>(StartJob("train", 10))->name, "train");
  EXPECT_EQ(Take<wire::Welcome>(StartJob("train", 11))->name, "train-2");
  EXPECT_EQ(Take<wire::Welcome>(StartJob("train", 12))->name, "train-3");
  End("train-2", {.code = 0});
  EXPECT_EQ(Take<wire::Welcome>(StartJob("train", 13))->name, "train-2");
}

TEST_F(RegistrationTest, NamesAreCleaned) {
  EXPECT_EQ(Take<wire::Welcome>(StartJob("", 10))->name, "job");
  EXPECT_EQ(Take<wire::Welcome>(StartJob("my run\n1", 11))->name, "my-run-1");
  EXPECT_EQ(Take<wire::Welcome>(StartJob(std::string(500, 'x'), 12))->name, std::string(48, 'x'));
}

TEST_F(RegistrationTest, AJobThatDidNotHearItsWelcomeIsNotRegisteredTwice) {
  StartJob("train", 10);
  const auto again = Take<wire::Welcome>(StartJob("train", 10));
  EXPECT_EQ(again->name, "train");
  EXPECT_EQ(core_->state().live_jobs(), 1u);
}

TEST_F(RegistrationTest, OneProcessMayHaveTwoSessions) {
  StartJob("train", 10, {.token = 1});
  EXPECT_EQ(Take<wire::Welcome>(StartJob("train", 10, {.token = 2}))->name, "train-2");
}

TEST_F(RegistrationTest, ANewConnectionOfAJobReplacesItsOldOne) {
  const PeerId old = StartJob("train", 10);
  StartJob("train", 10);
  EXPECT_TRUE(edges_->closed.contains(old));
  core_->Closed(old);
  EXPECT_TRUE(core_->state().FindJob("train")->attached());
}

TEST_F(RegistrationTest, AProcessRegistersOnlyItself) {
  const PeerId peer = Connect(wire::Role::kJob, 10);
  Say(peer, wire::Register{.name = "a", .pid = 11, .start_time = 1});
  EXPECT_EQ(Take<wire::Answer>(peer)->error->code, "not_permitted");
  EXPECT_TRUE(edges_->closed.contains(peer));
}

TEST_F(RegistrationTest, TheFirstFrameMustBeHello) {
  const PeerId peer(77);
  core_->Connected(peer, 1);
  Say(peer, wire::Query{.what = "ps"});
  EXPECT_EQ(Take<wire::Answer>(peer)->error->code, "protocol");
  EXPECT_TRUE(edges_->closed.contains(peer));
}

TEST_F(RegistrationTest, AnotherVersionGetsAClearRefusal) {
  const PeerId peer(77);
  core_->Connected(peer, 1);
  Say(peer, wire::Hello{.version = 2, .role = wire::Role::kCli, .pid = 1});
  const auto answer = Take<wire::Answer>(peer);
  EXPECT_EQ(answer->error->code, "version");
  EXPECT_EQ(answer->error->message, "this daemon speaks version 1, you speak 2");
}

TEST_F(RegistrationTest, AJobMayNotSendCommandsOfTheCommandLineTwistedIntoItsOwn) {
  const PeerId cli = Cli();
  Say(cli, wire::GrantAck{.revision = 1});
  EXPECT_EQ(Take<wire::Answer>(cli)->error->code, "protocol");
}

TEST_F(RegistrationTest, ADeathIsAnEventWithItsSignalAndItsSlotIsFreed) {
  device_.Add(0, 10, "train").iterations = 41;
  device_.view.slots[0].private_bytes = 3 << 20;
  device_.view.slots[0].lane = 0;
  device_.view.lanes[0].holder = 0;
  StartJob("train", 10);
  EXPECT_TRUE(edges_->watched.contains(10));
  clock_.Advance(absl::Seconds(200));
  const int reaps = edges_->reaps;
  End("train", {.signal = 9});
  EXPECT_EQ(
      LastEvent(),
      "train (pid 10) died (signal 9, SIGKILL) after 3 min 20 s and 41 iterations; its 3 MiB and "
      "its turn are free");
  EXPECT_EQ(edges_->reaps, reaps + 1);
}

TEST_F(RegistrationTest, ByeEndsAJobWithItsExitCodeOnce) {
  const PeerId peer = StartJob("train", 10);
  Say(peer, wire::Bye{3});
  EXPECT_NE(LastEvent().find("ended with exit code 3"), std::string::npos);
  const size_t events = core_->state().events.size();
  const int reaps = edges_->reaps;
  core_->ProcessEnded(core_->state().FindJob("train")->id, {.signal = 9});
  Say(peer, wire::Report{.phase = "late"});
  EXPECT_EQ(edges_->reaps, reaps + 1) << "what it held is free now";
  EXPECT_EQ(core_->state().events.size(), events);
  EXPECT_FALSE(edges_->closed.contains(peer));
}

TEST_F(RegistrationTest, AfterARestartLiveJobsAttachAgainAndDeadOnesHaveEnded) {
  StartJob("train", 10);
  StartJob("bert", 11);
  edges_->dead.insert(11);
  Restart();
  EXPECT_FALSE(core_->state().FindJob("bert")->live());
  EXPECT_FALSE(core_->state().FindJob("train")->attached());
  EXPECT_TRUE(edges_->watched.contains(10));
  const auto welcome = Take<wire::Welcome>(StartJob("train", 10, {.job_id = 1}));
  EXPECT_EQ(welcome->name, "train");
  EXPECT_EQ(welcome->job_id, 1);
  EXPECT_EQ(core_->state().live_jobs(), 1u);
}

TEST_F(RegistrationTest, ADaemonThatLostItsJournalTakesOverWhatTheJobTells) {
  StartJob("train", 10, {.max_bytes = 5 << 20, .job_id = 40, .revision = 7, .paused = true});
  const Job* job = core_->state().FindJob("train");
  EXPECT_EQ(job->wanted.limit_bytes, 5 << 20);
  EXPECT_EQ(job->revision, 7);
  EXPECT_TRUE(job->paused);
}

TEST_F(RegistrationTest, OnlyTheLastEndedJobsAreKept) {
  for (int64_t pid = 100; pid < 200; ++pid) {
    StartJob("train", pid);
    clock_.Advance(absl::Seconds(1));
    End("train", {.code = 0});
  }
  EXPECT_EQ(core_->state().jobs.size(), kEndedJobsKept);
  Restart();
  EXPECT_EQ(core_->state().jobs.size(), kEndedJobsKept);
}

TEST_F(RegistrationTest, WhatIsNotJournalledIsNotSent) {
  journal_.fail = absl::ResourceExhaustedError("disk full");
  const PeerId peer(500);
  core_->Connected(peer, 10);
  core_->Received(peer, *wire::EncodeMessage(wire::Hello{.role = wire::Role::kJob, .pid = 10}));
  core_->Received(peer,
                  *wire::EncodeMessage(wire::Register{.name = "a", .pid = 10, .start_time = 1}));
  EXPECT_FALSE(core_->Flush().ok());
  EXPECT_TRUE(edges_->sent[peer].empty());
}

}  // namespace
}  // namespace tide::coordinator
