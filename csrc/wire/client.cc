// Requests and answers with deadlines.
#include "wire/client.h"

#include <unistd.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/status.h"

namespace tide::wire {
namespace {

constexpr size_t kEventsKept = 4096;
constexpr absl::Duration kSlice = absl::Milliseconds(100);  // between looks at the interrupt

absl::Status Refused(const Answer& answer) {
  if (!answer.error) return absl::FailedPreconditionError("the daemon refused without a reason");
  return absl::FailedPreconditionError(
      absl::StrCat(answer.error->code, ": ", answer.error->message, "; ", answer.error->advice));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Client>> Client::Connect(const std::string& socket_path,
                                                        absl::Duration timeout) {
  TIDE_ASSIGN_OR_RETURN(UniqueFd socket, ConnectUnix(socket_path));
  std::unique_ptr<Client> client(new Client(std::move(socket)));
  TIDE_ASSIGN_OR_RETURN(Frame hello, EncodeMessage(Hello{.role = Role::kCli, .pid = getpid()}));
  TIDE_ASSIGN_OR_RETURN(const Frame reply, client->Request(std::move(hello), timeout));
  TIDE_ASSIGN_OR_RETURN(Message message, DecodeMessage(reply));
  if (const auto* answer = std::get_if<Answer>(&message)) return Refused(*answer);
  auto* welcome = std::get_if<Welcome>(&message);
  if (welcome == nullptr)
    return absl::InvalidArgumentError("the daemon did not answer Hello with Welcome");
  client->welcome_ = std::move(*welcome);
  return client;
}

absl::StatusOr<std::optional<Frame>> Client::ReceiveUntil(absl::Time deadline) {
  while (true) {
    TIDE_ASSIGN_OR_RETURN(auto frame, channel_.Receive());
    if (frame) return frame;
    const absl::Duration left = deadline - absl::Now();
    if (left <= absl::ZeroDuration()) return std::optional<Frame>();
    if (interrupt_ != nullptr) TIDE_RETURN_IF_ERROR(interrupt_());
    channel_.Wait(std::min(left, kSlice));
  }
}

absl::StatusOr<Frame> Client::Request(Frame request, absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  request.request_id = ++last_request_id_;
  request.generation = static_cast<uint64_t>(welcome_.generation);
  const absl::Status sent = channel_.Send(request);
  // A daemon that refused this connection has said why before it closed: read that first.
  if (!sent.ok() && !absl::IsUnavailable(sent)) return sent;
  while (true) {
    TIDE_ASSIGN_OR_RETURN(auto frame, ReceiveUntil(deadline));
    if (!frame) {
      return absl::DeadlineExceededError(absl::StrCat("the daemon did not answer ",
                                                      FrameKindName(request.kind), " within ",
                                                      absl::FormatDuration(timeout)));
    }
    if (frame->kind == FrameKind::kEvent) {
      if (events_.size() >= kEventsKept) events_.pop_front();
      events_.push_back(*std::move(frame));
    } else if (frame->request_id == request.request_id || frame->request_id == 0) {
      return *std::move(frame);  // 0: a refusal of the whole connection
    }
  }
}

absl::StatusOr<Answer> Client::Ask(Message message, absl::Duration timeout) {
  TIDE_ASSIGN_OR_RETURN(Frame request, EncodeMessage(std::move(message)));
  TIDE_ASSIGN_OR_RETURN(const Frame reply, Request(std::move(request), timeout));
  TIDE_ASSIGN_OR_RETURN(Message decoded, DecodeMessage(reply));
  if (auto* answer = std::get_if<Answer>(&decoded)) return std::move(*answer);
  return absl::InvalidArgumentError(
      absl::StrCat("the daemon answered with ", FrameKindName(reply.kind), ", not Answer"));
}

absl::StatusOr<std::optional<Frame>> Client::Next(absl::Duration timeout) {
  if (!events_.empty()) {
    std::optional<Frame> frame(std::move(events_.front()));
    events_.pop_front();
    return frame;
  }
  return ReceiveUntil(absl::Now() + timeout);
}

}  // namespace tide::wire
