// Mutates streams of valid frames and feeds them to the decoder: no crash, a typed end, bounded
// memory.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "base/random.h"
#include "gtest/gtest.h"
#include "wire/messages.h"

namespace tide::wire {

/// A message of a random kind with random contents.
inline Message RandomMessage(Random& random) {
  const int64_t number = static_cast<int64_t>(random.Next());
  const std::string text(random.Below(40), 'a' + static_cast<char>(random.Below(26)));
  const Value::Map map = {{text, number},
                          {"deep", Value::Array{Value::Map{{"x", 1.5}}, true, Value()}}};
  switch (random.Below(8)) {
    case 0:
      return Hello{.role = Role::kCli, .pid = number};
    case 1:
      return Register{.name = text, .pid = 1, .start_time = number, .script = text};
    case 2:
      return Report{.iterations = number, .phase = text};
    case 3:
      return Event{.kind = text, .text = text, .data = map};
    case 4:
      return GrantAck{.revision = number, .status = GrantStatus::kDeferred, .parts = map};
    case 5:
      return Command{.what = text, .bytes = number, .device = number};
    case 6:
      return Query{.what = text, .follow = true};
    default:
      return Answer{.ok = false, .error = AnswerError{text, text, text}, .data = Value(map)};
  }
}

/// Changes `bytes` in one of the ways in which a stream goes wrong.
inline void Mutate(std::string& bytes, Random& random) {
  if (bytes.empty()) return;
  const size_t at = random.Below(bytes.size());
  switch (random.Below(6)) {
    case 0:
      bytes[at] = static_cast<char>(bytes[at] ^ (1 << random.Below(8)));
      break;
    case 1:
      bytes[at] = static_cast<char>(random.Next());
      break;
    case 2:
      bytes.erase(at, 1 + random.Below(16));
      break;
    case 3:
      bytes.insert(at, std::string(1 + random.Below(16), static_cast<char>(random.Next())));
      break;
    case 4:
      bytes.resize(at);
      break;
    default:
      bytes.insert(at, bytes.substr(0, std::min<size_t>(bytes.size(), 60)));
      break;
  }
}

/// Decodes everything of a stream in random portions; returns how many messages were read.
inline int DecodeAll(absl::string_view bytes, Random& random) {
  FrameDecoder decoder(random.Below(2) == 0 ? Snapshots::kRefuse : Snapshots::kAccept);
  int messages = 0;
  while (!bytes.empty()) {
    const size_t portion = std::min<size_t>(bytes.size(), 1 + random.Below(200));
    decoder.Feed(bytes.substr(0, portion));
    bytes.remove_prefix(portion);
    while (true) {
      const auto frame = decoder.Next();
      if (!frame.ok()) {
        EXPECT_NE(FrameErrorOf(frame.status()), FrameError::kNone);
        return messages;
      }
      if (!*frame) break;
      messages += DecodeMessage(**frame).ok();
    }
  }
  return messages;
}

/// One round: a stream of one to three frames, mutated on the wire or in a body under valid
/// checksums.
inline void FuzzOnce(uint64_t seed) {
  Random random(seed);
  std::string stream;
  const bool inside = random.Below(2) == 0;
  for (uint64_t count = 1 + random.Below(3); count > 0; --count) {
    auto frame = EncodeMessage(RandomMessage(random), random.Next(), random.Next());
    ASSERT_TRUE(frame.ok());
    if (inside) Mutate(frame->body, random);
    stream += *EncodeFrame(*frame);
  }
  if (!inside) Mutate(stream, random);
  DecodeAll(stream, random);
}

}  // namespace tide::wire
