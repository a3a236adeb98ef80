// Descends the canonical tree.
#include "elastic/tree.h"

#include <bit>

namespace tide::elastic {
namespace {

void CoverBelow(Range node, Range range, std::vector<Range>& found) {
  if (range.begin >= node.end || range.end <= node.begin) return;
  if (range.begin <= node.begin && node.end <= range.end) {
    found.push_back(node);
    return;
  }
  const int split = SplitPoint(node);
  CoverBelow({node.begin, split}, range, found);
  CoverBelow({split, node.end}, range, found);
}

}  // namespace

int SplitPoint(Range node) {
  const auto below = static_cast<unsigned>(node.size() - 1);
  return node.begin + static_cast<int>(std::bit_floor(below));
}

bool IsNode(int workers, Range range) {
  Range node{0, workers};
  while (node != range) {
    if (node.size() < 2) return false;
    const int split = SplitPoint(node);
    node = range.begin < split ? Range{node.begin, split} : Range{split, node.end};
  }
  return true;
}

std::vector<Range> Cover(int workers, Range range) {
  std::vector<Range> found;
  if (range.size() > 0) CoverBelow({0, workers}, range, found);
  return found;
}

}  // namespace tide::elastic
