// The job's ties to the daemon: grants and orders become entries of the mailbox, figures become
// reports.
#pragma once

#include <memory>
#include <string>

#include "absl/strings/string_view.h"
#include "runtime/job_orders.h"
#include "runtime/orders.h"
#include "shm/device_file.h"
#include "wire/session.h"

namespace tide::runtime {

struct LinkOptions {
  std::string name;
  std::string script;
  int priority = 1;
  Bytes limit;
  Bytes guaranteed;
  SlotId slot;
};

/// Owns the session's I/O thread. A missing or dying daemon changes nothing but what people can see
/// and steer.
class DaemonLink {
 public:
  /// `device` and `orders` are borrowed for ever.
  DaemonLink(const LinkOptions& options, shm::DeviceFile& device, Orders& orders);

  /// Figures of now, from the device table; called a few times a second.
  /// With what the next suspension of the job and the return from it are predicted to take.
  void Report(double predicted_suspend_s, double predicted_resume_s);
  void Event(absl::string_view kind, absl::string_view text);
  void NeedMemory(Bytes bytes, absl::Duration deadline);
  /// The job is paused, or not, without an order that would have said so.
  void SetPaused(bool paused) { session_->SetPaused(paused); }
  void Bye(int exit_code);
  void AbandonAfterFork();
  /// The name that the daemon gave (made unique); the wished one before it answered.
  std::string name() const;
  bool attached() const { return session_->attached(); }
  /// This process is one of an elastic job from now on; null: no more.
  void TakeOrdersThrough(std::shared_ptr<JobOrders> job);

 private:
  void OnWelcome(const wire::Welcome& welcome);
  void OnGrant(const wire::Grant& grant);
  void OnOrder(const wire::Order& order);
  void AckOrder(int64_t id, const absl::Status& status, absl::Duration took, std::string text);
  std::shared_ptr<JobOrders> job_orders();
  shm::JobSlot& slot() const { return device_.slot(slot_); }

  shm::DeviceFile& device_;
  Orders& orders_;
  const SlotId slot_;
  absl::Mutex mu_;
  std::shared_ptr<JobOrders> job_orders_ ABSL_GUARDED_BY(mu_);
  std::unique_ptr<wire::JobSession> session_;
};

}  // namespace tide::runtime
