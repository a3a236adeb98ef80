#include "runtime/daemon_link.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "runtime/cuda_job.h"
#include "shm/process.h"
#include "shm/runtime_dir.h"

namespace tide::runtime {
namespace {

wire::GrantStatus OnWire(GrantStatus status) {
  switch (status) {
    case GrantStatus::kApplied:
      return wire::GrantStatus::kApplied;
    case GrantStatus::kDeferred:
      return wire::GrantStatus::kDeferred;
    case GrantStatus::kStale:
      return wire::GrantStatus::kStale;
    case GrantStatus::kConflict:
      return wire::GrantStatus::kConflict;
  }
  return wire::GrantStatus::kConflict;
}

wire::GrantAck AckOf(const GrantResult& result) {
  wire::GrantAck ack;
  ack.revision = result.revision;
  ack.status = OnWire(result.status);
  ack.overage_bytes = result.overage.value();
  ack.moved_bytes = result.moved.value();
  ack.took_ms = absl::ToDoubleMilliseconds(result.took);
  for (const auto& [name, bytes] : result.parts)
    ack.parts.emplace_back(name, wire::Value(bytes.value()));
  ack.text = result.text;
  return ack;
}

absl::string_view PhaseWord(uint32_t phase) {
  switch (static_cast<shm::Phase>(phase)) {
    case shm::Phase::kOutside:
      return "outside";
    case shm::Phase::kWaiting:
      return "waiting";
    case shm::Phase::kRunning:
      return "running";
    case shm::Phase::kLoading:
      return "loading";
    case shm::Phase::kPaused:
      return "paused";
    case shm::Phase::kQueued:
      return "queued";
  }
  return "outside";
}

}  // namespace

DaemonLink::DaemonLink(const LinkOptions& options, shm::DeviceFile& device, Orders& orders)
    : device_(device), orders_(orders), slot_(options.slot) {
  wire::SessionOptions session;
  session.job.name = options.name;
  session.job.pid = getpid();
  session.job.start_time = static_cast<int64_t>(shm::StartTime(getpid()));
  session.job.priority = static_cast<wire::Priority>(options.priority);
  session.job.min_bytes = options.guaranteed.value();
  session.job.max_bytes = options.limit.value();
  session.job.script = options.script;
  session.job.slot = options.slot.value();
  session.job.started = absl::ToDoubleSeconds(absl::Now() - absl::UnixEpoch());
  wire::SessionCallbacks callbacks;
  callbacks.on_welcome = [this](const wire::Welcome& welcome) { OnWelcome(welcome); };
  callbacks.on_grant = [this](const wire::Grant& grant) { OnGrant(grant); };
  callbacks.on_order = [this](const wire::Order& order) { OnOrder(order); };
  callbacks.on_refusal = [](const wire::AnswerError& error) {
    Log(LogLevel::kWarning,
        absl::StrCat("event=registration_refused message=\"", error.message, "\""));
  };
  session_ = std::make_unique<wire::JobSession>(shm::RuntimeDir() + "/tided.sock", session,
                                                std::move(callbacks));
}

void DaemonLink::OnWelcome(const wire::Welcome& welcome) {
  slot().job_id.store(welcome.job_id, std::memory_order_relaxed);
  std::strncpy(slot().name, welcome.name.c_str(), shm::kNameBytes - 1);
}

void DaemonLink::OnGrant(const wire::Grant& grant) {
  slot().priority.store(static_cast<uint32_t>(grant.priority), std::memory_order_relaxed);
  slot().weight_milli.store(static_cast<uint32_t>(grant.weight * 1000), std::memory_order_relaxed);
  GrantRequest request;
  request.revision = grant.revision;
  request.limit = Bytes(grant.max_bytes);
  request.guaranteed = Bytes(grant.guaranteed_bytes);
  orders_.PutGrant(request, [this](const GrantResult& result) { session_->Post(AckOf(result)); });
  device_.Wake(slot_);
}

void DaemonLink::OnOrder(const wire::Order& order) {
  if (order.kind == wire::OrderKind::kStop) {
    session_->Post(wire::OrderAck{order.order_id, wire::OrderStatus::kFailed, 0,
                                  "stop a job with its own Ctrl-C or SIGTERM"});
    return;
  }
  const std::shared_ptr<JobOrders> job = job_orders();
  if (order.kind != wire::OrderKind::kLimitDevice && job != nullptr && job->active()) {
    const absl::Time now = absl::Now();
    // Before it joined it may have been told to pause by itself.
    if (order.kind == wire::OrderKind::kResume)
      orders_.PutMove({.kind = MoveKind::kResume}, nullptr);
    job->Put(
        {.id = order.order_id,
         .kind = order.kind == wire::OrderKind::kSuspend  ? JobOrders::Kind::kPause
                 : order.kind == wire::OrderKind::kResume ? JobOrders::Kind::kResume
                                                          : JobOrders::Kind::kResize,
         .processes = static_cast<uint32_t>(std::clamp<int64_t>(order.processes, 0, 1 << 16)),
         .deadline = order.deadline_ms > 0 ? now + absl::Milliseconds(order.deadline_ms)
                                           : absl::InfiniteFuture()},
        now,
        [this, id = order.order_id](const absl::Status& status, absl::Duration took,
                                    const std::string& text) { AckOrder(id, status, took, text); });
    device_.Wake(slot_);
    return;
  }
  if (order.kind == wire::OrderKind::kResize) {
    return AckOrder(order.order_id, absl::FailedPreconditionError("it is no elastic job"),
                    absl::ZeroDuration(), "");
  }
  MoveRequest request;
  request.order_id = order.order_id;
  request.kind = order.kind == wire::OrderKind::kSuspend  ? MoveKind::kSuspend
                 : order.kind == wire::OrderKind::kResume ? MoveKind::kResume
                                                          : MoveKind::kLimitDevice;
  request.device = static_cast<int>(std::clamp<int64_t>(order.device, -1, 1 << 16));
  request.limit = Bytes(order.bytes);
  request.deep = order.deep;
  if (order.deadline_ms > 0) request.deadline = absl::Now() + absl::Milliseconds(order.deadline_ms);
  orders_.PutMove(request, [this, id = order.order_id](const MoveResult& result) {
    AckOrder(id, result.status, result.took, result.text);
  });
  device_.Wake(slot_);
}

void DaemonLink::AckOrder(int64_t id, const absl::Status& status, absl::Duration took,
                          std::string text) {
  wire::OrderAck ack;
  ack.order_id = id;
  ack.status = status.ok()                        ? wire::OrderStatus::kDone
               : absl::IsDeadlineExceeded(status) ? wire::OrderStatus::kRolledBack
                                                  : wire::OrderStatus::kFailed;
  ack.took_ms = absl::ToDoubleMilliseconds(took);
  ack.text = status.ok() ? std::move(text) : std::string(status.message());
  session_->Post(std::move(ack));
}

void DaemonLink::TakeOrdersThrough(std::shared_ptr<JobOrders> job) {
  absl::MutexLock lock(&mu_);
  job_orders_ = std::move(job);
}

std::shared_ptr<JobOrders> DaemonLink::job_orders() {
  absl::MutexLock lock(&mu_);
  return job_orders_;
}

void DaemonLink::Report(double predicted_suspend_s, double predicted_resume_s) {
  const shm::JobSlot& own = slot();
  wire::Report report;
  report.slot = slot_.value();
  report.iterations = own.iterations.load(std::memory_order_relaxed);
  report.step_ms =
      static_cast<double>(own.last_iteration_ns.load(std::memory_order_relaxed)) * 1e-6;
  report.outside = own.outside_now_bytes.load(std::memory_order_relaxed);
  report.resident = own.private_bytes.load(std::memory_order_relaxed) + report.outside +
                    own.file_now_bytes.load(std::memory_order_relaxed);
  report.demoted = own.demoted_bytes.load(std::memory_order_relaxed);
  report.persistent = own.persistent_bytes.load(std::memory_order_relaxed);
  report.scratch_peak = own.scratch_peak_bytes.load(std::memory_order_relaxed);
  // acquire: the limit is written before its revision
  report.revision = own.budget_revision.load(std::memory_order_acquire);
  report.max_bytes = own.budget_bytes_max.load(std::memory_order_relaxed);
  report.guaranteed_bytes = own.budget_bytes_guaranteed.load(std::memory_order_relaxed);
  report.phase = std::string(PhaseWord(own.phase.load(std::memory_order_relaxed)));
  if (const CudaJob* cuda = CudaJob::Current()) {
    for (const CudaFigures& figures : cuda->Figures()) {
      report.devices.push_back({figures.index, figures.name, figures.limit.value(),
                                figures.device.value(), figures.host_mapped.value(),
                                figures.away.value(), figures.predicted_suspend_s * 1e3,
                                figures.predicted_resume_s * 1e3});
    }
  }
  report.predicted_suspend_ms = predicted_suspend_s * 1e3;
  report.predicted_resume_ms = predicted_resume_s * 1e3;
  if (const std::shared_ptr<JobOrders> job = job_orders()) {
    job->Look(absl::Now());
    if (job->active()) {
      const JobOrders::Sizes sizes = job->sizes();
      report.processes = sizes.processes;
      report.processes_low = sizes.low;
      report.processes_high = sizes.high;
      session_->SetPaused(job->paused());
    }
  }
  session_->Post(std::move(report));
}

void DaemonLink::Event(absl::string_view kind, absl::string_view text) {
  wire::Event event;
  event.kind = std::string(kind);
  event.text = std::string(text);
  session_->Post(std::move(event));
}

void DaemonLink::NeedMemory(Bytes bytes, absl::Duration deadline) {
  session_->Post(wire::NeedMemory{bytes.value(), absl::ToInt64Milliseconds(deadline)});
}

void DaemonLink::Bye(int exit_code) {
  // A job that lived for milliseconds has not been registered yet: it would leave without a trace.
  constexpr absl::Duration kPatience = absl::Milliseconds(500);
  const bool daemon_expected = access((shm::RuntimeDir() + "/tided.sock").c_str(), F_OK) == 0;
  if (daemon_expected && !session_->attached()) session_->WaitAttached(kPatience).IgnoreError();
  session_->Bye(exit_code, kPatience);
}

void DaemonLink::AbandonAfterFork() { session_->AbandonAfterFork(); }

std::string DaemonLink::name() const { return session_->name(); }

}  // namespace tide::runtime
