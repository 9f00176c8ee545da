// Floats and the block types of 32 values.
#include "quantize/plain_blocks.inl.h"

namespace pygrok {
namespace {

template <TensorType type>
struct Float {
  static constexpr TensorType kType = type;
  static constexpr bool kNeedsImportance = false;
  static constexpr size_t kBlock = 1;
};

struct FloatF32 : Float<TensorType::kF32> {
  static constexpr float kMaxAbs = 0x1.fffffep127f;
  PYGROK_LANES static void Encode(const EncodeArgs& args) {
    for (size_t r = 0; r < args.rows; ++r) {
      for (size_t i = 0; i < args.n; ++i) {
        std::memcpy(args.out + r * args.stride + i * 4, args.x + i * kLanes + r, 4);
      }
    }
  }
};

template <TensorType type, void (*kRound)(const F32x&, U32x&)>
struct Float16 : Float<type> {
  PYGROK_LANES static void Encode(const EncodeArgs& args) {
    // Whole cache lines a row at a time: rows often lie a multiple of 4096 bytes apart, in one set of the
    // cache.
    constexpr size_t kRun = 32;
    for (size_t first = 0; first < args.n; first += kRun) {
      const size_t count = args.n - first < kRun ? args.n - first : kRun;
      uint16_t values[kRun * kLanes];
      for (size_t i = 0; i < count; ++i) {
        F32x v;
        U32x bits;
        Load(args.x + (first + i) * kLanes, v);
        kRound(v, bits);
        const U16x narrow = __builtin_convertvector(bits, U16x);
        std::memcpy(values + i * kLanes, &narrow, sizeof(narrow));
      }
      for (size_t r = 0; r < args.rows; ++r) {
        uint16_t run[kRun];
        for (size_t i = 0; i < count; ++i) run[i] = values[i * kLanes + r];
        std::memcpy(args.out + r * args.stride + first * 2, run, count * 2);
      }
    }
  }
};

struct FloatF16 : Float16<TensorType::kF16, ToHalf> {
  static constexpr float kMaxAbs = kHalfMax;
};
struct FloatBf16 : Float16<TensorType::kBF16, ToBf16> {
  static constexpr float kMaxAbs = 0x1.fep127f;
};

}  // namespace

std::span<const Codec> PlainCodecs(CodecIsa isa) {
  return CodecsFor<FloatF32, FloatF16, FloatBf16, BlockQ4_0, BlockQ4_1, BlockQ5_0, BlockQ5_1, BlockQ8_0,
                   BlockIQ4_NL, BlockMXFP4>(isa);
}

}  // namespace pygrok
