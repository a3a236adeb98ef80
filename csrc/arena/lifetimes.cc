#include "arena/lifetimes.h"

#include <algorithm>

#include "arena/heap.h"

namespace tide::arena {

void Lifetimes::BeginIteration(int64_t iteration, int32_t phase) {
  iteration_ = iteration;
  phase_ = phase;
  ordinals_.clear();
}

Signature Lifetimes::Name(Bytes size, int32_t sequence) {
  Signature signature;
  signature.size_class = RoundToGrain(size).value() / kGrain.value();
  signature.ordinal = ordinals_[signature.size_class]++;
  signature.sequence = sequence;
  signature.phase = phase_;
  signature.iteration = iteration_;
  return signature;
}

bool Lifetimes::Enough(const Evidence& evidence) const {
  return evidence.deaths >= evidence_ << std::min(evidence.survivals, 10);
}

bool Lifetimes::PredictEphemeral(const Signature& signature) const {
  if (signature.ordinal < 0) return false;
  auto exact = table_.find(Key{signature.size_class, signature.ordinal, signature.phase});
  if (exact != table_.end() && (exact->second.survivals > 0 || Enough(exact->second)))
    return Enough(exact->second);
  auto any = table_.find(Key{kAnySize, signature.sequence, signature.phase});
  if (any == table_.end() || !Enough(any->second)) return false;
  // The same operator on another shape: within a factor of four of what was seen, else it is
  // something new.
  return signature.size_class * 4 >= any->second.grains_min &&
         signature.size_class <= any->second.grains_max * 4;
}

void Lifetimes::Note(const Signature& signature, bool survived) {
  if (signature.ordinal < 0 || signature.iteration < learn_from_) return;
  for (const Key key : {Key{signature.size_class, signature.ordinal, signature.phase},
                        Key{kAnySize, signature.sequence, signature.phase}}) {
    auto found = table_.find(key);
    if (found == table_.end()) {
      if (table_.size() >= kEntriesMax) continue;
      found = table_.emplace(key, Evidence{0, 0, signature.size_class, signature.size_class}).first;
    }
    Evidence& evidence = found->second;
    evidence.grains_min = std::min(evidence.grains_min, signature.size_class);
    evidence.grains_max = std::max(evidence.grains_max, signature.size_class);
    if (survived) {
      ++evidence.survivals;
      evidence.deaths = 0;
    } else if (evidence.deaths < 1 << 20) {
      ++evidence.deaths;
    }
  }
}

void Lifetimes::Freed(const Signature& signature, int64_t now_iteration) {
  if (signature.iteration == now_iteration) Note(signature, false);
}

void Lifetimes::Survived(const Signature& signature) { Note(signature, true); }

}  // namespace tide::arena
