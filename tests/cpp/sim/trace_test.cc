// Traces from CSV: columns by name, order, and what is refused with line and column.
#include "sim/trace.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tide::sim {
namespace {

using ::testing::HasSubstr;

TEST(TraceTest, ColumnsAreFoundByNameWhateverTheirOrder) {
  const auto trace = ParseTrace(
      "model,gpus,job_id,duration_s,submit_s,vc,deadline_s,tier\n"
      "bert,4,a,10.5,0,x,99,guaranteed\n"
      "bert,4,b,20,1,x,0,\n"
      "bert,2,c,20,1,y,,opportunistic\n",
      "t");
  ASSERT_TRUE(trace.ok()) << trace.status();
  EXPECT_EQ(trace->job_ids, (std::vector<std::string>{"a", "b", "c"}));
  const auto& jobs = trace->jobs;
  EXPECT_EQ(jobs[0].gpus, 4);
  EXPECT_EQ(jobs[0].duration_s, 10.5);
  EXPECT_EQ(jobs[0].deadline_s, 99);
  EXPECT_EQ(jobs[0].tier, sched::JobTier::kGuaranteed);
  EXPECT_EQ(jobs[1].deadline_s, sched::kNever);
  EXPECT_EQ(jobs[1].tier, sched::JobTier::kStandard);
  EXPECT_EQ(jobs[2].tier, sched::JobTier::kOpportunistic);
  EXPECT_EQ(jobs[0].user, jobs[1].user);
  EXPECT_NE(jobs[0].user, jobs[2].user);
  EXPECT_EQ(jobs[0].group, jobs[1].group);
  EXPECT_NE(jobs[0].group, jobs[2].group);
}

TEST(TraceTest, RowsAreSortedBySubmissionAndEqualOnesStayInOrder) {
  const auto trace = ParseTrace(
      "job_id,submit_s,gpus,duration_s\r\nlate,9,1,1\r\nfirst,3,1,1\r\nsecond,3,1,1\r\n\r\n", "t");
  ASSERT_TRUE(trace.ok()) << trace.status();
  EXPECT_EQ(trace->job_ids, (std::vector<std::string>{"first", "second", "late"}));
}

TEST(TraceTest, ABatchIsReadWhereTheTimeOfAnExampleIsThereAndIgnoredWhereNot) {
  const std::string head = "job_id,submit_s,gpus,duration_s,batch_size,batch_max,noise_scale,";
  const auto trace = ParseTrace(head +
                                    "step_ms,example_ms,sync_ms,sync_gpu_ms,overlap\n"
                                    "a,0,2,10,64,4096,1000,10,1,20,2,1.5\n"
                                    "b,0,2,10,64,,,,1,,,\n"
                                    "c,0,2,10,64,,,,,,,\n",
                                "t");
  ASSERT_TRUE(trace.ok()) << trace.status();
  const sched::BatchModel& batch = trace->profiles.of[trace->jobs[0].profile].batch;
  EXPECT_EQ(batch.own, 64);
  EXPECT_EQ(batch.most, 4096);
  EXPECT_EQ(batch.noise, 1000);
  EXPECT_EQ(batch.step_s, 0.01);
  EXPECT_EQ(batch.example_s, 0.001);
  EXPECT_EQ(batch.sync_s, 0.02);
  EXPECT_EQ(batch.sync_gpu_s, 0.002);
  EXPECT_EQ(batch.overlap, 1.5);
  EXPECT_EQ(trace->profiles.of[trace->jobs[1].profile].batch.BestBatch(2), 64);
  EXPECT_EQ(trace->jobs[2].profile, -1);
  const auto curves = ParseTrace(
      "job_id,submit_s,gpus,duration_s,cpu_speed,host_speed\na,0,1,1,1:0.4;3:1,10:1\n", "t");
  ASSERT_TRUE(curves.ok()) << curves.status();
  EXPECT_EQ(curves->profiles.of[0].cpu_speed, (sched::SpeedCurve{{1, 0.4}, {3, 1}}));
  EXPECT_EQ(curves->profiles.of[0].host_speed, (sched::SpeedCurve{{10, 1}}));
  for (const char* cell : {"3:1;1:0.4", "1", "1:0", "0:1", "1:one"}) {
    const std::string text =
        std::string("job_id,submit_s,gpus,duration_s,cpu_speed\na,0,1,1,") + cell;
    EXPECT_THAT(ParseTrace(text, "t").status().message(), HasSubstr("cpu_speed is \"")) << cell;
  }
  const std::string row = head + "example_ms,speedup\n";
  const std::pair<std::string, std::string> wrong[] = {
      {"a,0,2,10,64,32,0,1,\n", "batch_max is 32, less than batch_size, 64"},
      {"a,0,2,10,,,0,1,\n", "line 2 of the trace: example_ms without batch_size"},
      {"a,0,2,10,zero,,0,1,\n", "batch_size is \"zero\"; give examples from 1 to 1e9"},
      {"a,0,2,10,64,,-1,1,\n", "noise_scale is \"-1\""},
      {"a,0,2,10,64,,0,0,\n", "example_ms is \"0\"; give milliseconds above 0"},
      {"a,0,2,10,64,,0,1,1:1;2:2\n", "both speedup and example_ms"}};
  for (const auto& [text, message] : wrong) {
    EXPECT_THAT(ParseTrace(row + text, "t").status().message(), HasSubstr(message)) << text;
  }
}

TEST(TraceTest, WhatCannotBeReadIsNamedWithLineAndColumn) {
  const std::string head = "job_id,submit_s,gpus,duration_s\n";
  const std::pair<std::string, std::string> cases[] = {
      {"", "has no jobs"},
      {head, "has no jobs"},
      {"job_id,submit_s,gpus\n0,0,1\n", "no column \"duration_s\""},
      {head + "0,0,1,1\n1,0,zero,1\n", "line 3 of the trace: gpus is \"zero\""},
      {head + "0,0,0,1\n", "gpus is \"0\"; give a number of GPUs from 1 upwards"},
      {head + "0,0,-4,1\n", "gpus is \"-4\""},
      {head + "0,0,9999999999,1\n", "gpus is"},
      {head + "0,-1,1,1\n", "submit_s is \"-1\"; give seconds"},
      {head + "0,0,1,nan\n", "duration_s is \"nan\""},
      {head + "0,0,1,inf\n", "duration_s is \"inf\""},
      {head + "0,0,1\n", "duration_s is \"\""},
      {"tier," + head + "gold,0,0,1,1\n", "tier is \"gold\"; give guaranteed"}};
  for (const auto& [text, message] : cases) {
    const auto trace = ParseTrace(text, "t");
    EXPECT_EQ(trace.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(trace.status().message(), HasSubstr(message));
  }
}

TEST(TraceTest, AFileThatIsNotThereIsNotFound) {
  EXPECT_EQ(ReadTrace("/nowhere/at/all.csv").status().code(), absl::StatusCode::kNotFound);
}

TEST(TraceTest, ADrawnTraceHasTheLoadThatWasAskedForAndFollowsItsSeed) {
  const Trace trace = DrawTrace(20000, 512, 0.8, 7);
  double gpu_seconds = 0;
  for (const sched::JobView& job : trace.jobs) gpu_seconds += job.gpus * job.duration_s;
  EXPECT_NEAR(gpu_seconds / (trace.jobs.back().submit_s * 512), 0.8, 0.08);
  EXPECT_EQ(DrawTrace(100, 512, 0.8, 7).jobs[99].submit_s,
            DrawTrace(100, 512, 0.8, 7).jobs[99].submit_s);
  EXPECT_NE(DrawTrace(100, 512, 0.8, 7).jobs[99].submit_s,
            DrawTrace(100, 512, 0.8, 8).jobs[99].submit_s);
}

}  // namespace
}  // namespace tide::sim
