// Two queues of bytes with arrival times, and the dice of the faults.
#include "wire/loopback_channel.h"

#include <algorithm>
#include <array>
#include <deque>

#include "base/random.h"
#include "base/status.h"

namespace tide::wire {
namespace {

constexpr size_t kQueuedBytesMax = 16 << 20;

/// What both ends share: two directions of bytes under way, as the wire would carry them.
struct Link {
  struct Parcel {
    int64_t arrives_ns;
    std::string bytes;
  };
  struct Direction {
    std::deque<Parcel> parcels;
    size_t bytes = 0;
  };

  Link(SimulatedClock& simulated, LoopbackFaults wanted)
      : clock(simulated), faults(wanted), random(wanted.seed) {}

  SimulatedClock& clock;
  const LoopbackFaults faults;
  Random random;
  std::array<Direction, 2> directions;
  bool cut = false;
};

class LoopbackChannel final : public Channel {
 public:
  LoopbackChannel(std::shared_ptr<Link> link, int side) : link_(std::move(link)), side_(side) {}
  ~LoopbackChannel() override { link_->cut = true; }

  absl::Status Send(const Frame& frame) override {
    if (link_->cut) return absl::UnavailableError("the link is cut");
    TIDE_ASSIGN_OR_RETURN(std::string bytes, EncodeFrame(frame));
    Link::Direction& out = link_->directions[side_];
    if (out.bytes + bytes.size() > kQueuedBytesMax) {
      return absl::ResourceExhaustedError("too many bytes wait for a peer that reads too slowly");
    }
    if (link_->random.Unit() < link_->faults.cut) {
      link_->cut = true;
      return absl::OkStatus();  // the sender learns of it at its next call, as with a socket
    }
    if (link_->random.Unit() < link_->faults.drop) return absl::OkStatus();
    const absl::Duration spread = link_->faults.delay_max - link_->faults.delay_min;
    const int64_t delay_ns =
        absl::ToInt64Nanoseconds(link_->faults.delay_min + link_->random.Unit() * spread);
    const int64_t earliest = out.parcels.empty() ? 0 : out.parcels.back().arrives_ns;
    out.bytes += bytes.size();
    out.parcels.push_back(
        {std::max(earliest, link_->clock.MonotonicNanos() + delay_ns), std::move(bytes)});
    return absl::OkStatus();
  }

  absl::StatusOr<std::optional<Frame>> Receive() override {
    if (closed_) return absl::UnavailableError("the channel is closed");
    Link::Direction& in = link_->directions[1 - side_];
    while (!in.parcels.empty() &&
           (link_->cut || in.parcels.front().arrives_ns <= link_->clock.MonotonicNanos())) {
      in.bytes -= in.parcels.front().bytes.size();
      decoder_.Feed(in.parcels.front().bytes);
      in.parcels.pop_front();
    }
    TIDE_ASSIGN_OR_RETURN(auto frame, decoder_.Next());
    if (!frame && link_->cut) return absl::UnavailableError("the peer closed the connection");
    return frame;
  }

  void Wait(absl::Duration timeout) override {
    const Link::Direction& in = link_->directions[1 - side_];
    absl::Duration step = timeout;
    if (!in.parcels.empty()) {
      step = std::min(
          step, absl::Nanoseconds(in.parcels.front().arrives_ns - link_->clock.MonotonicNanos()));
    }
    if (!link_->cut && step > absl::ZeroDuration()) link_->clock.Advance(step);
  }

  void Close() override { link_->cut = closed_ = true; }

 private:
  const std::shared_ptr<Link> link_;  // shared: either end may be destroyed first
  const int side_;
  FrameDecoder decoder_{Snapshots::kAccept};
  bool closed_ = false;
};

}  // namespace

std::pair<std::unique_ptr<Channel>, std::unique_ptr<Channel>> LoopbackPair(SimulatedClock& clock,
                                                                           LoopbackFaults faults) {
  auto link = std::make_shared<Link>(clock, faults);
  return {std::make_unique<LoopbackChannel>(link, 0), std::make_unique<LoopbackChannel>(link, 1)};
}

}  // namespace tide::wire
