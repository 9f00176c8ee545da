// What the machine can do at best: the loops behind limits.h. Include after a simd_*.h.
#pragma once

namespace pygrok {
namespace {

constexpr size_t kDotChains = 12;  // independent accumulators: hide the latency of the dot product

int32_t DotRounds(size_t rounds) {
  typename DotSigned::Acc acc[kDotChains];
  ActivationBlock a = {};
  for (size_t i = 0; i < kBlockValues; ++i) a.values[i] = static_cast<int8_t>(i * 5 % 63);
  Bytes w[4];
  LoadRows16(reinterpret_cast<const std::byte*>(a.values), 0, w);
  Bytes four = Broadcast4(a.values);
#pragma GCC unroll 16
  for (size_t c = 0; c < kDotChains; ++c) acc[c] = DotSigned::Init<kWhole>(a);
  for (size_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 16
    for (size_t c = 0; c < kDotChains; ++c) {
      four = Forget(four);  // every step does all of its work
      acc[c] = Forget(DotSigned::Step(acc[c], w[c & 1], four));
    }
  }
  int32_t result = 0;
  for (size_t c = 0; c < kDotChains; ++c) result ^= FirstLane(acc[c]);
  return result;
}

// Loads that depend on nothing, eight lines a round, each asked for ahead: what the processor fetches by
// itself stops at the end of a page.
uint64_t ReadAll(const std::byte* data, size_t bytes) {
  constexpr size_t kStreams = 8;
  constexpr size_t kAheadBytes = 1024;
  Bytes acc[kStreams];
  for (size_t s = 0; s < kStreams; ++s) acc[s] = NoBytes();
  size_t i = 0;
  for (; i + kStreams * sizeof(Bytes) <= bytes; i += kStreams * sizeof(Bytes)) {
    for (size_t s = 0; s < kStreams; ++s) {
      Prefetch(reinterpret_cast<uintptr_t>(data) + i + s * sizeof(Bytes) + kAheadBytes);
      acc[s] = Xor(acc[s], LoadBytes(data + i + s * sizeof(Bytes)));
    }
  }
  for (size_t s = 1; s < kStreams; ++s) acc[0] = Xor(acc[0], acc[s]);
  uint64_t words[sizeof(Bytes) / 8];
  StoreBytes(words, acc[0]);
  uint64_t result = 0;
  for (uint64_t word : words) result ^= word;
  for (; i < bytes; ++i) result ^= static_cast<uint64_t>(data[i]);
  return result;
}

}  // namespace
}  // namespace pygrok
