// The I/O thread around SessionMachine.
#include "wire/session.h"

#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <random>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "base/log.h"
#include "base/status.h"
#include "wire/unix_channel.h"

namespace tide::wire {
namespace {

/// Between looks at what is to be done: where the wake descriptor was closed nothing wakes sooner.
constexpr absl::Duration kWaitMax = absl::Seconds(1);

int64_t DrawToken() {
  std::random_device device;
  const uint64_t high = device(), low = device();
  return static_cast<int64_t>(((high << 32) | low) >> 1 | 1);  // positive, not 0
}

SessionOptions WithToken(SessionOptions options) {
  if (options.job.token == 0) options.job.token = DrawToken();
  return options;
}

}  // namespace

struct JobSession::Impl {
  Impl(std::string path, SessionOptions options, SessionCallbacks given, Clock& time)
      : socket_path(std::move(path)),
        callbacks(std::move(given)),
        clock(time),
        wake_fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
        wake_file(wake_fd.get()),
        machine(WithToken(std::move(options))) {}
  ~Impl() {
    if (!CanWake()) wake_fd.release();
  }

  void Run();
  void ConnectIfDue();
  void Exchange();
  bool SendDue();
  void Deliver(const SessionMachine::Incoming& incoming);
  void Cut(const absl::Status& why);
  absl::Duration NextWait();
  bool CanWake() const { return wake_file.IsAt(wake_fd.get()); }
  void Wake() {
    const uint64_t one = 1;
    if (!CanWake()) return;
    if (write(wake_fd.get(), &one, sizeof one) < 0) return;  // full: it is awake already
  }

  // constant after construction
  const std::string socket_path;
  const SessionCallbacks callbacks;
  Clock& clock;
  UniqueFd wake_fd;
  const FileIdentity wake_file;
  std::thread thread;

  // of the I/O thread alone
  std::unique_ptr<UnixChannel> channel;

  // self-synchronised
  std::atomic<int> socket_fd{-1};  // relaxed: read only in a forked child, which is alone

  absl::Mutex mu;
  SessionMachine machine ABSL_GUARDED_BY(mu);
  bool stop ABSL_GUARDED_BY(mu) = false;
  bool bye_gone ABSL_GUARDED_BY(mu) = false;
};

void JobSession::Impl::Run() {
  pthread_setname_np(pthread_self(), "tide-io");
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, nullptr);  // the user's signals belong to the user's threads
  while (true) {
    {
      absl::MutexLock lock(&mu);
      if (stop) return;
    }
    ConnectIfDue();
    if (channel) Exchange();
    const absl::Duration wait = NextWait();
    const int waker = CanWake() ? wake_fd.get() : -1;
    uint64_t drained;
    if (channel) {
      channel->WaitOr(waker, wait);
    } else {
      // Note [Waiting without a socket]: a channel on no descriptor polls the wake descriptor
      // alone.
      UnixChannel(UniqueFd()).WaitOr(waker, wait);
    }
    while (CanWake() && read(wake_fd.get(), &drained, sizeof drained) > 0) {
    }
  }
}

void JobSession::Impl::ConnectIfDue() {
  if (channel) return;
  {
    absl::MutexLock lock(&mu);
    if (!machine.ShouldConnect(clock.MonotonicNanos())) return;
  }
  auto socket = ConnectUnix(socket_path);
  absl::MutexLock lock(&mu);
  if (!socket.ok()) {
    machine.Lost(clock.MonotonicNanos());
    return;
  }
  channel = std::make_unique<UnixChannel>(*std::move(socket));
  socket_fd.store(channel->fd(), std::memory_order_relaxed);
  machine.Connected(clock.MonotonicNanos());
}

bool JobSession::Impl::SendDue() {
  while (true) {
    std::optional<Frame> frame;
    bool bye_sent = false;
    {
      absl::MutexLock lock(&mu);
      frame = machine.NextFrame(clock.MonotonicNanos());
      bye_sent = !frame && machine.said_bye();
    }
    if (!frame) {
      if (bye_sent && channel->queued_bytes() == 0) {
        absl::MutexLock lock(&mu);
        bye_gone = true;
      }
      return true;
    }
    const absl::Status sent = channel->Send(*frame);
    if (!sent.ok()) {
      Cut(sent);
      return false;
    }
  }
}

void JobSession::Impl::Exchange() {
  if (!SendDue()) return;
  while (true) {
    auto frame = channel->Receive();
    if (!frame.ok()) return Cut(frame.status());
    if (!*frame) break;
    absl::StatusOr<SessionMachine::Incoming> incoming;
    {
      absl::MutexLock lock(&mu);
      incoming = machine.OnFrame(**frame, clock.MonotonicNanos());
    }
    if (!incoming.ok()) return Cut(incoming.status());
    Deliver(*incoming);
  }
  bool overdue = false;
  {
    absl::MutexLock lock(&mu);
    overdue = machine.Overdue(clock.MonotonicNanos());
  }
  if (overdue) return Cut(absl::DeadlineExceededError("the daemon does not answer Register"));
  SendDue();
}

void JobSession::Impl::Deliver(const SessionMachine::Incoming& incoming) {
  if (incoming.welcome && callbacks.on_welcome) callbacks.on_welcome(*incoming.welcome);
  if (incoming.grant && callbacks.on_grant) callbacks.on_grant(*incoming.grant);
  if (incoming.order && callbacks.on_order) callbacks.on_order(*incoming.order);
  if (incoming.refusal) {
    Log(LogLevel::kInfo, absl::StrCat("event=daemon_refused code=", incoming.refusal->code,
                                      " message=\"", incoming.refusal->message, "\""));
    if (callbacks.on_refusal) callbacks.on_refusal(*incoming.refusal);
  }
}

void JobSession::Impl::Cut(const absl::Status& why) {
  Log(LogLevel::kInfo, absl::StrCat("event=daemon_lost reason=\"", why.message(), "\""));
  socket_fd.store(-1, std::memory_order_relaxed);
  channel.reset();
  absl::MutexLock lock(&mu);
  machine.Lost(clock.MonotonicNanos());
}

absl::Duration JobSession::Impl::NextWait() {
  absl::MutexLock lock(&mu);
  if (stop) return absl::ZeroDuration();
  const int64_t now_ns = clock.MonotonicNanos();
  const int64_t due_ns = machine.NextDeadlineNs(now_ns);
  return std::min(kWaitMax, absl::Nanoseconds(std::max<int64_t>(0, due_ns - now_ns)));
}

JobSession::JobSession(std::string socket_path, SessionOptions options, SessionCallbacks callbacks,
                       Clock& clock)
    : impl_(std::make_unique<Impl>(std::move(socket_path), std::move(options), std::move(callbacks),
                                   clock)) {
  impl_->thread = std::thread([impl = impl_.get()] { impl->Run(); });
}

JobSession::~JobSession() {
  if (!impl_ || !impl_->thread.joinable()) return;
  {
    absl::MutexLock lock(&impl_->mu);
    impl_->stop = true;
  }
  impl_->Wake();
  impl_->thread.join();
}

#define TIDE_POST(Type)                        \
  void JobSession::Post(Type message) {        \
    if (!impl_) return;                        \
    {                                          \
      absl::MutexLock lock(&impl_->mu);        \
      impl_->machine.Post(std::move(message)); \
    }                                          \
    impl_->Wake();                             \
  }
TIDE_POST(Report)
TIDE_POST(Event)
TIDE_POST(GrantAck)
TIDE_POST(OrderAck)
TIDE_POST(NeedMemory)
#undef TIDE_POST

void JobSession::SetPaused(bool paused) {
  if (!impl_) return;
  absl::MutexLock lock(&impl_->mu);
  impl_->machine.set_paused(paused);
}

void JobSession::Bye(int64_t exit_code, absl::Duration timeout) {
  if (!impl_ || !impl_->thread.joinable()) return;
  bool attached = false;
  {
    absl::MutexLock lock(&impl_->mu);
    impl_->machine.Post(wire::Bye{exit_code});
    attached = impl_->machine.welcomed();
  }
  impl_->Wake();
  {
    absl::MutexLock lock(&impl_->mu);
    // Without a daemon there is nobody to tell: do not hold up the end of the user's process.
    if (attached) impl_->mu.AwaitWithTimeout(absl::Condition(&impl_->bye_gone), timeout);
    impl_->stop = true;
  }
  impl_->Wake();
  impl_->thread.join();
}

absl::Status JobSession::WaitAttached(absl::Duration timeout) {
  if (!impl_) return absl::FailedPreconditionError("the session belongs to the parent process");
  absl::MutexLock lock(&impl_->mu);
  const auto welcomed = [](SessionMachine* machine) { return machine->welcomed(); };
  if (impl_->mu.AwaitWithTimeout(absl::Condition(+welcomed, &impl_->machine), timeout))
    return absl::OkStatus();
  return absl::DeadlineExceededError(
      absl::StrCat("no daemon at ", impl_->socket_path, " within ", absl::FormatDuration(timeout)));
}

bool JobSession::attached() const {
  if (!impl_) return false;
  absl::MutexLock lock(&impl_->mu);
  return impl_->machine.welcomed();
}

int64_t JobSession::job_id() const {
  if (!impl_) return 0;
  absl::MutexLock lock(&impl_->mu);
  return impl_->machine.job_id();
}

std::string JobSession::name() const {
  if (!impl_) return "";
  absl::MutexLock lock(&impl_->mu);
  return impl_->machine.name();
}

void JobSession::AbandonAfterFork() {
  Impl* left_behind = impl_.release();  // leaked on purpose, see the header
  if (left_behind == nullptr) return;
  const int socket_fd = left_behind->socket_fd.load(std::memory_order_relaxed);
  if (socket_fd >= 0) close(socket_fd);
  const int wake_fd = left_behind->CanWake() ? left_behind->wake_fd.release() : -1;
  if (wake_fd >= 0) close(wake_fd);
}

}  // namespace tide::wire
