// The numbers behind the tree: partial sums of one process, and their sum over all processes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "elastic/accumulator.h"
#include "elastic/kernels.h"
#include "elastic/plan.h"

namespace tide::elastic {

/// Arrays of the flat layout, and shards of it, begin at multiples of this: a cache line.
inline constexpr size_t kAlignment = 64;

/// One parameter's gradient.
struct Parameter {
  ElementType type = ElementType::kFloat32;
  size_t count = 0;
};

/// Where gradients lie in a flat buffer: each from a 64-byte boundary on, because matrix-vector
/// products choose their path by alignment; equal types side by side.
class FlatLayout {
 public:
  struct Run {
    ElementType type;
    size_t offset;  // bytes
    size_t count;   // elements, padding included
  };
  explicit FlatLayout(const std::vector<Parameter>& parameters);
  const std::vector<Parameter>& parameters() const { return parameters_; }
  size_t offset(size_t parameter) const { return offsets_[parameter]; }
  const std::vector<Run>& runs() const { return runs_; }
  size_t bytes() const { return bytes_; }

 private:
  std::vector<Parameter> parameters_;
  std::vector<size_t> offsets_;
  std::vector<Run> runs_;
  size_t bytes_ = 0;
};

/// Sums gradients of a process's workers into buffers that it is lent, at most LivePartials of
/// them.
class PartialSums {
 public:
  PartialSums(int workers, const FlatLayout& layout) : layout_(layout), counter_(workers) {}

  /// Starts over in `buffers` (layout.bytes() apart, zeros between the gradients) and clears `used`
  /// (a byte a parameter).
  void Begin(std::byte* buffers, std::byte* used);
  /// Adds the gradients of the next worker; a null pointer is a gradient of zeros that does not
  /// count as used. Pointers are to dense arrays in the order of the layout's parameters.
  void Fold(int worker, absl::Span<const void* const> gradients);
  /// The same one by one, in any order, as backward makes them: `Push`, then `FoldOne` once for
  /// each parameter. A parameter's part of all partial sums is complete when its `FoldOne` returns.
  void Push(int worker);
  void FoldOne(size_t parameter, const void* gradient);
  const std::vector<Range>& nodes() const { return counter_.nodes(); }

 private:
  std::byte* buffer(size_t index) { return buffers_ + index * layout_.bytes(); }

  const FlatLayout& layout_;
  Accumulator counter_;
  std::byte* buffers_ = nullptr;
  std::byte* used_ = nullptr;
  size_t top_ = 0;     // buffer that the worker pushed last begins in
  int additions_ = 0;  // sums that it completes
};

/// out[begin, end) = the root over `sources` (in the order of plan.sources) divided by the number
/// of workers. Bounds are bytes, multiples of 64. `out` may be a source. A pass in blocks that stay
/// in the first cache.
void SumTree(const Plan& plan, const FlatLayout& layout, absl::Span<const std::byte* const> sources,
             std::byte* out, size_t begin, size_t end, int workers);

/// Bytes [first, second) that `rank` sums when the plan is sharded.
std::pair<size_t, size_t> Shard(const FlatLayout& layout, int rank, int processes);

}  // namespace tide::elastic
