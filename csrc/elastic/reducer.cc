// Folds gradients into partial sums and adds partial sums block by block.
#include "elastic/reducer.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace tide::elastic {
namespace {

constexpr size_t kBlockBytes = 4096;  // a dozen of them fit the first cache

constexpr size_t Align(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

/// Sums one block of one run; `scratch` has a block for each addition but the last.
void SumBlock(const Plan& plan, ElementType type, absl::Span<const std::byte* const> sources,
              size_t offset, size_t bytes, std::byte* out, std::vector<std::byte>& scratch) {
  const size_t count = bytes / ElementBytes(type);
  const auto operand = [&](int index) -> const std::byte* {
    const auto i = static_cast<size_t>(index);
    return i < sources.size() ? sources[i] + offset
                              : scratch.data() + (i - sources.size()) * kBlockBytes;
  };
  for (size_t i = 0; i < plan.additions.size(); ++i) {
    const bool root = i + 1 == plan.additions.size();
    std::byte* result = root ? out + offset : scratch.data() + i * kBlockBytes;
    Add(type, operand(plan.additions[i].left), operand(plan.additions[i].right), result, count);
  }
}

}  // namespace

FlatLayout::FlatLayout(const std::vector<Parameter>& parameters)
    : parameters_(parameters), offsets_(parameters.size()) {
  for (const ElementType type :
       {ElementType::kFloat64, ElementType::kFloat32, ElementType::kBfloat16}) {
    const size_t begin = bytes_;
    for (size_t i = 0; i < parameters_.size(); ++i) {
      if (parameters_[i].type != type) continue;
      offsets_[i] = bytes_;
      bytes_ += Align(parameters_[i].count * ElementBytes(type));
    }
    if (bytes_ > begin) runs_.push_back({type, begin, (bytes_ - begin) / ElementBytes(type)});
  }
}

void PartialSums::Begin(std::byte* buffers, std::byte* used) {
  buffers_ = buffers;
  used_ = used;
  counter_.Clear();
  std::memset(used_, 0, layout_.parameters().size());
}

void PartialSums::Push(int worker) {
  additions_ = counter_.Push(worker);
  top_ = counter_.nodes().size() - 1 + static_cast<size_t>(std::max(additions_ - 1, 0));
}

void PartialSums::FoldOne(size_t parameter, const void* gradient) {
  const auto [type, count] = layout_.parameters()[parameter];
  const size_t offset = layout_.offset(parameter);
  std::byte* at = buffer(top_) + offset;
  if (gradient != nullptr) used_[parameter] = std::byte{1};
  if (additions_ == 0 && gradient != nullptr) {
    std::memcpy(at, gradient, count * ElementBytes(type));
  } else if (additions_ == 0) {
    std::memset(at, 0, count * ElementBytes(type));
  } else if (gradient != nullptr) {
    Add(type, at, gradient, at, count);
  } else {
    AddZero(type, at, count);
  }
  for (int i = 1; i < additions_; ++i) {
    const size_t right = top_ - static_cast<size_t>(i) + 1;
    std::byte* left = buffer(right - 1) + offset;
    Add(type, left, buffer(right) + offset, left, count);
  }
}

void PartialSums::Fold(int worker, absl::Span<const void* const> gradients) {
  Push(worker);
  for (size_t i = 0; i < layout_.parameters().size(); ++i) FoldOne(i, gradients[i]);
}

void SumTree(const Plan& plan, const FlatLayout& layout, absl::Span<const std::byte* const> sources,
             std::byte* out, size_t begin, size_t end, int workers) {
  std::vector<std::byte> scratch(plan.additions.size() * kBlockBytes);
  for (const FlatLayout::Run& run : layout.runs()) {
    const size_t run_end = run.offset + run.count * ElementBytes(run.type);
    const size_t stop = std::min(end, run_end);
    for (size_t at = std::max(begin, run.offset); at < stop; at += kBlockBytes) {
      const size_t bytes = std::min(kBlockBytes, stop - at);
      if (!plan.additions.empty()) {
        SumBlock(plan, run.type, sources, at, bytes, out, scratch);
      } else if (out != sources[0]) {
        std::memcpy(out + at, sources[0] + at, bytes);
      }
      Finish(run.type, out + at, 1.0 / workers, bytes / ElementBytes(run.type));
    }
  }
}

std::pair<size_t, size_t> Shard(const FlatLayout& layout, int rank, int processes) {
  const size_t units = layout.bytes() / kAlignment;
  const auto part = [&](int index) {
    return units * static_cast<size_t>(index) / static_cast<size_t>(processes) * kAlignment;
  };
  return {part(rank), part(rank + 1)};
}

}  // namespace tide::elastic
