// The K types and IQ4_XS: their searches' trials and their bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "quantize/k_offset.inl.h"
#include "quantize/k_scaled.inl.h"

namespace pygrok {
namespace {

// One lane's codes, in order.
PYGROK_LANES void TakeLane(const uint8_t* codes, size_t lane, uint8_t (&values)[kSuperBlock]) {
  for (size_t i = 0; i < kSuperBlock; ++i) values[i] = codes[i * kLanes + lane];
}

PYGROK_LANES void PutHalf(const U32x& bits, size_t lane, uint8_t* to) {
  const uint16_t half = static_cast<uint16_t>(bits[lane]);
  std::memcpy(to, &half, sizeof(half));
}

// Two bits of each of 128 values in 32 bytes: byte l holds values l, l + 32, l + 64 and l + 96.
PYGROK_LANES void PackPairs(const uint8_t* values, int shift, uint8_t* to) {
  for (size_t l = 0; l < 32; ++l) {
    int byte = 0;
    for (size_t j = 0; j < 4; ++j) byte |= (values[32 * j + l] >> shift & 3) << 2 * j;
    to[l] = static_cast<uint8_t>(byte);
  }
}

// Low nibbles of 64 values in 32 bytes: byte l holds values l and l + 32.
PYGROK_LANES void PackHalves(const uint8_t* values, uint8_t* to) {
  for (size_t l = 0; l < 32; ++l) to[l] = static_cast<uint8_t>((values[l] & 15) | values[l + 32] << 4);
}

// Eight 6-bit scales and eight 6-bit minima of Q4_K and Q5_K in 12 bytes.
PYGROK_LANES void PackScales6(const F32x* scales, const F32x* minima, size_t lane, uint8_t* to) {
  for (size_t j = 0; j < 4; ++j) {
    const int scale = static_cast<int>(scales[j][lane]);
    const int min = static_cast<int>(minima[j][lane]);
    const int later_scale = static_cast<int>(scales[j + 4][lane]);
    const int later_min = static_cast<int>(minima[j + 4][lane]);
    to[j] = static_cast<uint8_t>(scale | later_scale >> 4 << 6);
    to[j + 4] = static_cast<uint8_t>(min | later_min >> 4 << 6);
    to[j + 8] = static_cast<uint8_t>((later_scale & 15) | (later_min & 15) << 4);
  }
}

// Q2_K: 16 bytes of scale | min << 4, 64 bytes of codes, f16 d, f16 dmin.
struct BlockQ2_K : OffsetSuperBlock<TensorType::kQ2_K, 3, 15, 16> {
  PYGROK_LANES static void Pack(const Scales& s, const uint8_t* codes, size_t rows, std::byte* out,
                                size_t stride) {
    for (size_t r = 0; r < rows; ++r) {
      uint8_t values[kSuperBlock];
      uint8_t block[84];
      TakeLane(codes, r, values);
      for (size_t j = 0; j < kSubs; ++j) {
        const int scale = static_cast<int>(s.scale_code[j][r]);
        block[j] = static_cast<uint8_t>(scale | static_cast<int>(s.min_code[j][r]) << 4);
      }
      for (size_t half = 0; half < 2; ++half) PackPairs(values + 128 * half, 0, block + 16 + 32 * half);
      PutHalf(s.d.bits, r, block + 80);
      PutHalf(s.dmin.bits, r, block + 82);
      std::memcpy(out + r * stride, block, sizeof(block));
    }
  }
};

// Q3_K: 32 bytes of third bits, 64 bytes of low bits, 12 bytes of 16 6-bit scales + 32, f16 d.
struct BlockQ3_K : ScaledSuperBlock<TensorType::kQ3_K, Linear<-4, 3>, Linear<-32, 31>, 16> {
  static constexpr float kTrials[] = {-5.5f, -5.1f, -4.7f, -4.4f, -4.1f, -3.9f, -3.6f,
                                      -3.4f, -3.1f, 3.8f,  3.5f,  3.2f,  2.9f};
  PYGROK_LANES static void Choose(const float* x, const float* w, Scales& s) { ChooseFrom(x, w, kTrials, s); }
  PYGROK_LANES static void Refit(size_t sub, const float* x, const float* w, Scales& s) {
    RefitFrom(sub, x, w, kTrials, s);
  }
  PYGROK_LANES static void Pack(const Scales& s, const uint8_t* codes, size_t rows, std::byte* out,
                                size_t stride) {
    for (size_t r = 0; r < rows; ++r) {
      uint8_t values[kSuperBlock];
      uint8_t block[110] = {};
      TakeLane(codes, r, values);
      for (size_t i = 0; i < kSuperBlock; ++i) {
        block[i % 32] = static_cast<uint8_t>(block[i % 32] | values[i] >> 2 << i / 32);
      }
      for (size_t half = 0; half < 2; ++half) PackPairs(values + 128 * half, 0, block + 32 + 32 * half);
      uint8_t* const scales = block + 96;
      for (size_t j = 0; j < kSubs; ++j) {
        const int code = static_cast<int>(s.code[j][r]) + 32;
        scales[j % 8] = static_cast<uint8_t>(scales[j % 8] | (code & 15) << (j < 8 ? 0 : 4));
        scales[8 + j % 4] = static_cast<uint8_t>(scales[8 + j % 4] | code >> 4 << 2 * (j / 4));
      }
      PutHalf(s.d.bits, r, block + 108);
      std::memcpy(out + r * stride, block, sizeof(block));
    }
  }
};

// Q4_K: f16 d, f16 dmin, 12 bytes of scales, 128 bytes of codes.
struct BlockQ4_K : OffsetSuperBlock<TensorType::kQ4_K, 15, 63, 32> {
  PYGROK_LANES static void Pack(const Scales& s, const uint8_t* codes, size_t rows, std::byte* out,
                                size_t stride) {
    for (size_t r = 0; r < rows; ++r) {
      uint8_t values[kSuperBlock];
      uint8_t block[144];
      TakeLane(codes, r, values);
      PutHalf(s.d.bits, r, block);
      PutHalf(s.dmin.bits, r, block + 2);
      PackScales6(s.scale_code, s.min_code, r, block + 4);
      for (size_t j = 0; j < 4; ++j) PackHalves(values + 64 * j, block + 16 + 32 * j);
      std::memcpy(out + r * stride, block, sizeof(block));
    }
  }
};

// Q5_K: f16 d, f16 dmin, 12 bytes of scales, 32 bytes of fifth bits, 128 bytes of low nibbles.
struct BlockQ5_K : OffsetSuperBlock<TensorType::kQ5_K, 31, 63, 32> {
  PYGROK_LANES static void Pack(const Scales& s, const uint8_t* codes, size_t rows, std::byte* out,
                                size_t stride) {
    for (size_t r = 0; r < rows; ++r) {
      uint8_t values[kSuperBlock];
      uint8_t block[176] = {};
      TakeLane(codes, r, values);
      PutHalf(s.d.bits, r, block);
      PutHalf(s.dmin.bits, r, block + 2);
      PackScales6(s.scale_code, s.min_code, r, block + 4);
      for (size_t i = 0; i < kSuperBlock; ++i) {
        block[16 + i % 32] = static_cast<uint8_t>(block[16 + i % 32] | values[i] >> 4 << i / 32);
      }
      for (size_t j = 0; j < 4; ++j) PackHalves(values + 64 * j, block + 48 + 32 * j);
      std::memcpy(out + r * stride, block, sizeof(block));
    }
  }
};

// Q6_K: 128 bytes of low nibbles, 64 bytes of high bits, 16 int8 scales, f16 d; codes + 32.
struct BlockQ6_K : ScaledSuperBlock<TensorType::kQ6_K, Linear<-32, 31>, Linear<-128, 127>, 16> {
  static constexpr float kTrials[] = {-34.0f, -33.2f, -32.6f, -32.0f, -31.4f,
                                      -30.8f, -30.2f, -29.6f, 31.4f,  30.6f};
  PYGROK_LANES static void Choose(const float* x, const float* w, Scales& s) { ChooseFrom(x, w, kTrials, s); }
  PYGROK_LANES static void Refit(size_t sub, const float* x, const float* w, Scales& s) {
    RefitFrom(sub, x, w, kTrials, s);
  }
  PYGROK_LANES static void Pack(const Scales& s, const uint8_t* codes, size_t rows, std::byte* out,
                                size_t stride) {
    for (size_t r = 0; r < rows; ++r) {
      uint8_t values[kSuperBlock];
      uint8_t block[210];
      TakeLane(codes, r, values);
      for (size_t half = 0; half < 2; ++half) {
        const uint8_t* const from = values + 128 * half;
        for (size_t l = 0; l < 64; ++l) {
          block[64 * half + l] = static_cast<uint8_t>((from[l] & 15) | from[l + 64] << 4);
        }
        PackPairs(from, 4, block + 128 + 32 * half);
      }
      for (size_t j = 0; j < kSubs; ++j) {
        block[192 + j] = static_cast<uint8_t>(static_cast<int>(s.code[j][r]));
      }
      PutHalf(s.d.bits, r, block + 208);
      std::memcpy(out + r * stride, block, sizeof(block));
    }
  }
};

// IQ4_XS: f16 d, 2 bytes of high bits and 4 bytes of low nibbles of 8 scales + 32, 128 bytes of codes.
struct BlockIQ4_XS : ScaledSuperBlock<TensorType::kIQ4_XS, Iq4, Linear<-32, 31>, 32> {
  static constexpr float kTrials[] = {-138.0f, -132.0f, -126.0f, -120.0f, -114.0f, -108.0f,
                                      122.0f,  116.0f,  110.0f,  104.0f,  98.0f};
  PYGROK_LANES static void Choose(const float* x, const float* w, Scales& s) { ChooseFrom(x, w, kTrials, s); }
  PYGROK_LANES static void Refit(size_t sub, const float* x, const float* w, Scales& s) {
    RefitFrom(sub, x, w, kTrials, s);
  }
  PYGROK_LANES static void Pack(const Scales& s, const uint8_t* codes, size_t rows, std::byte* out,
                                size_t stride) {
    for (size_t r = 0; r < rows; ++r) {
      uint8_t values[kSuperBlock];
      uint8_t block[136] = {};
      TakeLane(codes, r, values);
      PutHalf(s.d.bits, r, block);
      uint16_t high = 0;
      for (size_t j = 0; j < kSubs; ++j) {
        const int code = static_cast<int>(s.code[j][r]) + 32;
        high = static_cast<uint16_t>(high | code >> 4 << 2 * j);
        block[4 + j / 2] = static_cast<uint8_t>(block[4 + j / 2] | (code & 15) << 4 * (j % 2));
        for (size_t l = 0; l < 16; ++l) {
          block[8 + 16 * j + l] = static_cast<uint8_t>(values[32 * j + l] | values[32 * j + 16 + l] << 4);
        }
      }
      std::memcpy(block + 2, &high, sizeof(high));
      std::memcpy(out + r * stride, block, sizeof(block));
    }
  }
};

}  // namespace
}  // namespace pygrok
