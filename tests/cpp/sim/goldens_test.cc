// Every row of goldens.csv: published results, equal to three decimals and in every count.
#include <filesystem>
#include <fstream>
#include <set>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "gtest/gtest.h"
#include "sim/replay.h"
#include "sim/summary.h"

namespace tide::sim {
namespace {

namespace fs = std::filesystem;

// In the repository, or beside it where the larger traces are.
fs::path FindTrace(const std::string& name) {
  const fs::path root(TIDE_SOURCE_DIR);
  for (const fs::path& folder :
       {root / "tests/sim/traces", root / "../shared/traces", root / "../../shared/traces"}) {
    if (fs::exists(folder / (name + ".csv"))) return folder / (name + ".csv");
  }
  return {};
}

std::vector<std::vector<std::string>> RowsOf(const std::string& trace) {
  std::ifstream file(FindTrace("goldens"));
  std::vector<std::vector<std::string>> rows;
  for (std::string line; std::getline(file, line);) {
    std::vector<std::string> cells = absl::StrSplit(line, ',');
    if (cells[0] == trace) rows.push_back(std::move(cells));
  }
  return rows;
}

class GoldensTest : public ::testing::TestWithParam<const char*> {};

TEST_P(GoldensTest, EveryRowOfTheTraceIsEqual) {
  const fs::path path = FindTrace(GetParam());
  if (path.empty()) GTEST_SKIP() << GetParam() << ".csv is not in ../shared/traces";
  const absl::StatusOr<Trace> trace = ReadTrace(path.string());
  ASSERT_TRUE(trace.ok()) << trace.status();
  const auto rows = RowsOf(GetParam());
  ASSERT_GE(rows.size(), 7u);
  for (const std::vector<std::string>& row : rows) {
    int gpus = 0;
    ASSERT_TRUE(absl::SimpleAtoi(row[1], &gpus));
    auto policy = sched::MakeClusterPolicy(row[2]);
    ASSERT_TRUE(policy.ok()) << policy.status();
    const auto result =
        Replay(*trace, *std::move(policy), {.cluster = {.nodes = 1, .gpus_per_node = gpus}});
    ASSERT_TRUE(result.ok()) << result.status();
    const Summary summary = Summarise(*trace, *result, gpus);
    const std::string got =
        absl::StrFormat("%s,%d,%s,%d,%d,%.3f,%.15g,%.15g,%.15g,%d,%d", trace->name, gpus, row[2],
                        summary.jobs_done, summary.jobs, summary.avg_jct_s, summary.median_jct_s,
                        summary.p99_jct_s, summary.makespan_s, result->preemptions, result->events);
    std::vector<std::string> wanted = row;
    wanted.resize(11);
    EXPECT_EQ(got, absl::StrJoin(wanted, ","));
  }
}

INSTANTIATE_TEST_SUITE_P(Traces, GoldensTest,
                         ::testing::Values("tiresias60", "itp10", "muri3", "muri1", "itp05",
                                           "philly_103959", "philly_ee9e8c", "philly_all"),
                         [](const auto& info) { return std::string(info.param); });

TEST(GoldensTest, EveryTraceOfTheFileIsReplayedAbove) {
  std::ifstream file(FindTrace("goldens"));
  std::set<std::string> traces;
  int rows = -1;  // the header
  for (std::string line; std::getline(file, line); ++rows) {
    traces.insert(std::string(line.substr(0, line.find(','))));
  }
  traces.erase("trace");
  EXPECT_EQ(rows, 60);
  EXPECT_EQ(traces, (std::set<std::string>{"tiresias60", "itp10", "muri3", "muri1", "itp05",
                                           "philly_103959", "philly_ee9e8c", "philly_all"}));
}

}  // namespace
}  // namespace tide::sim
