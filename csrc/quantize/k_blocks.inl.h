// The K types and IQ4_XS: their searches' trials and their bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "quantize/codes.inl.h"
#include "quantize/k_offset.inl.h"
#include "quantize/k_scaled.inl.h"
#include "quantize/pack.inl.h"

namespace pygrok {
namespace {

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
struct BlockQ2_K : OffsetSuperBlock<TensorType::kQ2_K, Linear<0, 3>, 15, 16> {
  static constexpr size_t kBlockBytes = 84;
  PYGROK_LANES static void Pack(const Scales& s, size_t lane, const uint8_t* codes, uint8_t* block) {
    for (size_t j = 0; j < kSubs; ++j) {
      const int scale = static_cast<int>(s.scale_code[j][lane]);
      block[j] = static_cast<uint8_t>(scale | static_cast<int>(s.min_code[j][lane]) << 4);
    }
    for (size_t half = 0; half < 2; ++half) PackBits<2, 32>(codes + 128 * half, 0, block + 16 + 32 * half);
    PutHalf(s.d.bits, lane, block + 80);
    PutHalf(s.dmin.bits, lane, block + 82);
  }
};

constexpr float kTrialsQ3[] = {-5.5f, -5.1f, -4.7f, -4.4f, -4.1f, -3.9f, -3.6f,
                               -3.4f, -3.1f, 3.8f,  3.5f,  3.2f,  2.9f};

// Q3_K: 32 bytes of third bits, 64 bytes of low bits, 12 bytes of 16 6-bit scales + 32, f16 d.
struct BlockQ3_K : ScaledSuperBlock<TensorType::kQ3_K, Linear<-4, 3>, Linear<-32, 31>, 16, kTrialsQ3> {
  static constexpr size_t kBlockBytes = 110;
  PYGROK_LANES static void Pack(const Scales& s, size_t lane, const uint8_t* codes, uint8_t* block) {
    PackBits<1, 32>(codes, 2, block);
    for (size_t half = 0; half < 2; ++half) PackBits<2, 32>(codes + 128 * half, 0, block + 32 + 32 * half);
    uint8_t* const scales = block + 96;
    for (size_t j = 0; j < kSubs; ++j) {
      const int code = static_cast<int>(s.code[j][lane]) + 32;
      scales[j % 8] = static_cast<uint8_t>(scales[j % 8] | (code & 15) << (j < 8 ? 0 : 4));
      scales[8 + j % 4] = static_cast<uint8_t>(scales[8 + j % 4] | code >> 4 << 2 * (j / 4));
    }
    PutHalf(s.d.bits, lane, block + 108);
  }
};

// Q4_K: f16 d, f16 dmin, 12 bytes of scales, 128 bytes of codes.
struct BlockQ4_K : OffsetSuperBlock<TensorType::kQ4_K, Linear<0, 15>, 63, 32> {
  static constexpr size_t kBlockBytes = 144;
  PYGROK_LANES static void Pack(const Scales& s, size_t lane, const uint8_t* codes, uint8_t* block) {
    PutHalf(s.d.bits, lane, block);
    PutHalf(s.dmin.bits, lane, block + 2);
    PackScales6(s.scale_code, s.min_code, lane, block + 4);
    for (size_t j = 0; j < 4; ++j) PackBits<4, 32>(codes + 64 * j, 0, block + 16 + 32 * j);
  }
};

// Q5_K: f16 d, f16 dmin, 12 bytes of scales, 32 bytes of fifth bits, 128 bytes of low nibbles.
struct BlockQ5_K : OffsetSuperBlock<TensorType::kQ5_K, Linear<0, 31>, 63, 32> {
  static constexpr size_t kBlockBytes = 176;
  PYGROK_LANES static void Pack(const Scales& s, size_t lane, const uint8_t* codes, uint8_t* block) {
    PutHalf(s.d.bits, lane, block);
    PutHalf(s.dmin.bits, lane, block + 2);
    PackScales6(s.scale_code, s.min_code, lane, block + 4);
    PackBits<1, 32>(codes, 4, block + 16);
    for (size_t j = 0; j < 4; ++j) PackBits<4, 32>(codes + 64 * j, 0, block + 48 + 32 * j);
  }
};

constexpr float kTrialsQ6[] = {-34.0f, -33.2f, -32.6f, -32.0f, -31.4f, -30.8f, -30.2f, -29.6f, 31.4f, 30.6f};

// Q6_K: 128 bytes of low nibbles, 64 bytes of high bits, 16 int8 scales, f16 d; codes + 32.
struct BlockQ6_K : ScaledSuperBlock<TensorType::kQ6_K, Linear<-32, 31>, Linear<-128, 127>, 16, kTrialsQ6> {
  static constexpr size_t kBlockBytes = 210;
  PYGROK_LANES static void Pack(const Scales& s, size_t lane, const uint8_t* codes, uint8_t* block) {
    for (size_t half = 0; half < 2; ++half) {
      PackBits<4, 64>(codes + 128 * half, 0, block + 64 * half);
      PackBits<2, 32>(codes + 128 * half, 4, block + 128 + 32 * half);
    }
    for (size_t j = 0; j < kSubs; ++j) {
      block[192 + j] = static_cast<uint8_t>(static_cast<int>(s.code[j][lane]));
    }
    PutHalf(s.d.bits, lane, block + 208);
  }
};

// IQ4_XS: f16 d, 2 bytes of high bits and 4 bytes of low nibbles of 8 scales + 32, 128 bytes of codes.
struct BlockIQ4_XS : ScaledSuperBlock<TensorType::kIQ4_XS, Iq4, Linear<-32, 31>, 32, Iq4::kTrials> {
  static constexpr size_t kBlockBytes = 136;
  PYGROK_LANES static void Pack(const Scales& s, size_t lane, const uint8_t* codes, uint8_t* block) {
    PutHalf(s.d.bits, lane, block);
    uint16_t high = 0;
    for (size_t j = 0; j < kSubs; ++j) {
      const int code = static_cast<int>(s.code[j][lane]) + 32;
      high = static_cast<uint16_t>(high | code >> 4 << 2 * j);
      block[4 + j / 2] = static_cast<uint8_t>(block[4 + j / 2] | (code & 15) << 4 * (j % 2));
      PackBits<4, 16>(codes + 32 * j, 0, block + 8 + 16 * j);
    }
    std::memcpy(block + 2, &high, sizeof(high));
  }
};

}  // namespace
}  // namespace pygrok
