// What a session does when the program closes descriptors that are not its own.
#include "wire/session.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>

#include "absl/time/clock.h"
#include "base/clock.h"

namespace tide::wire {
namespace {

TEST(JobSessionTest, EndsSoonAndWritesNothingWhereTheProgramClosedItsDescriptor) {
  FILE* const theirs = tmpfile();
  ASSERT_NE(theirs, nullptr);
  const int next = dup(0);  // what the session gets
  close(next);
  {
    const SessionOptions options{.backoff_min = absl::Minutes(1), .backoff_max = absl::Minutes(1)};
    JobSession session("/nonexistent/tided", options, {}, RealClock());
    ASSERT_EQ(dup2(fileno(theirs), next), next);
    session.Post(Event{});
    const absl::Time begin = absl::Now();
    session.Bye(0, absl::Seconds(5));
    EXPECT_LT(absl::Now() - begin, absl::Seconds(30));
  }
  EXPECT_EQ(lseek(next, 0, SEEK_END), 0) << "written to, or closed";
  close(next);
  fclose(theirs);
}

}  // namespace
}  // namespace tide::wire
