// Soft-capped causal attention for training, heads of 16, AVX-512: one pass over the scores, none of them kept.
//
// PyTorch has no fused kernel for tanh-capped scores, and writing them to memory costs more than all of Nano's matrix
// products. A head of 16 floats is one vector register. Scores lie in [-30, 30] after the cap, so the softmax needs no
// running maximum: exp() of them neither overflows nor vanishes in float32.

#include <immintrin.h>

#include <cmath>
#include <cstddef>
#include <cstring>
#include <vector>

namespace {

constexpr std::size_t kHead = 16;  // also the number of lanes
constexpr std::size_t kRows = 4;   // query rows that share the loads of a block of keys

using Vector = __m512;

Vector broadcast(float x) { return _mm512_set1_ps(x); }

// Cephes' range reduction; relative error about 2e-7.
Vector exp_ps(Vector x) {
  const Vector n = _mm512_roundscale_ps(_mm512_mul_ps(x, broadcast(1.44269504f)), 0);
  Vector r = _mm512_fnmadd_ps(n, broadcast(0.693359375f), x);
  r = _mm512_fnmadd_ps(n, broadcast(-2.12194440e-4f), r);
  Vector p = broadcast(1.9875691500e-4f);
  for (const float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
    p = _mm512_fmadd_ps(p, r, broadcast(c));
  p = _mm512_fmadd_ps(p, _mm512_mul_ps(r, r), _mm512_add_ps(r, broadcast(1.0f)));
  return _mm512_scalef_ps(p, n);
}

// tanh(x) = 1 - 2 / (exp(2x) + 1); beyond +-15 it is +-1 in float32.
Vector tanh_ps(Vector x) {
  const Vector twice = _mm512_max_ps(_mm512_min_ps(_mm512_add_ps(x, x), broadcast(30.0f)), broadcast(-30.0f));
  const Vector denominator = _mm512_add_ps(exp_ps(twice), broadcast(1.0f));
  Vector inverse = _mm512_rcp14_ps(denominator);
  inverse = _mm512_mul_ps(inverse, _mm512_fnmadd_ps(denominator, inverse, broadcast(2.0f)));
  return _mm512_fnmadd_ps(broadcast(2.0f), inverse, broadcast(1.0f));
}

// Copies rows `stride` apart into a packed block and its transpose, padded with zeros to `padded` rows.
void pack(const float* source, std::size_t stride, std::size_t length, std::size_t padded, float* rows, float* columns) {
  std::memset(rows, 0, padded * kHead * sizeof(float));
  for (std::size_t j = 0; j < length; ++j) std::memcpy(rows + j * kHead, source + j * stride, kHead * sizeof(float));
  for (std::size_t d = 0; d < kHead; ++d)
    for (std::size_t j = 0; j < padded; ++j) columns[d * padded + j] = rows[j * kHead + d];
}

// x . columns for 16 keys from j on.
Vector dots(const float* x, const float* columns, std::size_t padded, std::size_t j) {
  Vector even = _mm512_setzero_ps(), odd = even;
  for (std::size_t d = 0; d < kHead; d += 2) {
    even = _mm512_fmadd_ps(broadcast(x[d]), _mm512_loadu_ps(columns + d * padded + j), even);
    odd = _mm512_fmadd_ps(broadcast(x[d + 1]), _mm512_loadu_ps(columns + (d + 1) * padded + j), odd);
  }
  return _mm512_add_ps(even, odd);
}

// Adds sum_j weights[j] * rows[j] over 16 keys.
Vector combine(Vector weights, const float* rows, Vector sum) {
  alignas(64) float w[kHead];
  _mm512_store_ps(w, weights);
  Vector parts[4] = {sum, _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
  for (std::size_t j = 0; j < kHead; ++j)
    parts[j % 4] = _mm512_fmadd_ps(broadcast(w[j]), _mm512_loadu_ps(rows + j * kHead), parts[j % 4]);
  return _mm512_add_ps(_mm512_add_ps(parts[0], parts[1]), _mm512_add_ps(parts[2], parts[3]));
}

// Lanes of the block at j that row i may see.
__mmask16 visible(std::size_t i, std::size_t j) {
  return i >= j + 15 ? __mmask16(0xFFFF) : i < j ? __mmask16(0) : __mmask16((1u << (i - j + 1)) - 1);
}

struct Shape {
  std::size_t length, heads, kv_heads, padded;
  float cap, scale;
};

Shape shape(std::size_t length, std::size_t heads, std::size_t kv_heads, float cap) {
  return {length, heads, kv_heads, (length + kHead - 1) / kHead * kHead, cap, 1.0f / std::sqrt(float(kHead))};
}

}  // namespace

extern "C" {

// One (batch row, key/value head): q, out [length, heads, 16]; k, v [length, kv_heads, 16]; inverse [length, heads],
// the reciprocal of each softmax's sum, kept for the gradient. All pointers are at the batch row.
void attention_forward(const float* q, const float* k, const float* v, float* out, float* inverse, std::size_t kv_head,
                       std::size_t length, std::size_t heads, std::size_t kv_heads, float cap) {
  const Shape s = shape(length, heads, kv_heads, cap);
  std::vector<float> memory(4 * s.padded * kHead);
  float *keys = memory.data(), *keys_t = keys + s.padded * kHead, *values = keys_t + s.padded * kHead;
  pack(k + kv_head * kHead, kv_heads * kHead, length, s.padded, keys, keys_t);
  pack(v + kv_head * kHead, kv_heads * kHead, length, s.padded, values, values + s.padded * kHead);
  const std::size_t group = heads / kv_heads;
  for (std::size_t h = kv_head * group; h < (kv_head + 1) * group; ++h) {
    for (std::size_t i = 0; i < length; ++i) {
      const float* row = q + (i * heads + h) * kHead;
      Vector sum = _mm512_setzero_ps(), mixed = sum;
      for (std::size_t j = 0; j <= i; j += kHead) {
        const Vector t = tanh_ps(_mm512_mul_ps(dots(row, keys_t, s.padded, j), broadcast(s.scale / cap)));
        const Vector p = _mm512_maskz_mov_ps(visible(i, j), exp_ps(_mm512_mul_ps(t, broadcast(cap))));
        sum = _mm512_add_ps(sum, p);
        mixed = combine(p, values + j * kHead, mixed);
      }
      const float reciprocal = 1.0f / _mm512_reduce_add_ps(sum);
      inverse[i * heads + h] = reciprocal;
      _mm512_storeu_ps(out + (i * heads + h) * kHead, _mm512_mul_ps(mixed, broadcast(reciprocal)));
    }
  }
}

// Gradients for the same item; dq like q, dk and dv like k.
void attention_backward(const float* q, const float* k, const float* v, const float* out, const float* inverse,
                        const float* grad, float* dq, float* dk, float* dv, std::size_t kv_head, std::size_t length,
                        std::size_t heads, std::size_t kv_heads, float cap) {
  const Shape s = shape(length, heads, kv_heads, cap);
  const std::size_t block = s.padded * kHead;
  std::vector<float> memory(6 * block, 0.0f);
  float *keys = memory.data(), *keys_t = keys + block, *values = keys_t + block, *values_t = values + block;
  float *dk_t = values_t + block, *dv_t = dk_t + block;
  pack(k + kv_head * kHead, kv_heads * kHead, length, s.padded, keys, keys_t);
  pack(v + kv_head * kHead, kv_heads * kHead, length, s.padded, values, values_t);
  const std::size_t group = heads / kv_heads;
  for (std::size_t h = kv_head * group; h < (kv_head + 1) * group; ++h) {
    for (std::size_t first = 0; first < length; first += kRows) {
      const std::size_t rows = length - first < kRows ? length - first : kRows;
      const float *query[kRows], *gradient[kRows];
      Vector sum[kRows];
      float delta[kRows], reciprocal[kRows];
      for (std::size_t r = 0; r < rows; ++r) {
        const std::size_t at = (first + r) * heads + h;
        query[r] = q + at * kHead;
        gradient[r] = grad + at * kHead;
        reciprocal[r] = inverse[at];
        delta[r] = _mm512_reduce_add_ps(_mm512_mul_ps(_mm512_loadu_ps(gradient[r]), _mm512_loadu_ps(out + at * kHead)));
        sum[r] = _mm512_setzero_ps();
      }
      for (std::size_t j = 0; j < first + rows; j += kHead) {
        Vector p[kRows], dx[kRows];
        for (std::size_t r = 0; r < rows; ++r) {
          const Vector t = tanh_ps(_mm512_mul_ps(dots(query[r], keys_t, s.padded, j), broadcast(s.scale / cap)));
          p[r] = _mm512_maskz_mul_ps(visible(first + r, j), exp_ps(_mm512_mul_ps(t, broadcast(cap))), broadcast(reciprocal[r]));
          const Vector dp = dots(gradient[r], values_t, s.padded, j);
          // Through the softmax, then through the cap: d(cap tanh(x scale / cap)) = scale (1 - tanh^2) dx.
          const Vector ds = _mm512_mul_ps(p[r], _mm512_sub_ps(dp, broadcast(delta[r])));
          dx[r] = _mm512_mul_ps(ds, _mm512_mul_ps(_mm512_fnmadd_ps(t, t, broadcast(1.0f)), broadcast(s.scale)));
          sum[r] = combine(dx[r], keys + j * kHead, sum[r]);
        }
        for (std::size_t d = 0; d < kHead; ++d) {
          Vector dkey = _mm512_loadu_ps(dk_t + d * s.padded + j), dvalue = _mm512_loadu_ps(dv_t + d * s.padded + j);
          for (std::size_t r = 0; r < rows; ++r) {
            dkey = _mm512_fmadd_ps(broadcast(query[r][d]), dx[r], dkey);
            dvalue = _mm512_fmadd_ps(broadcast(gradient[r][d]), p[r], dvalue);
          }
          _mm512_storeu_ps(dk_t + d * s.padded + j, dkey);
          _mm512_storeu_ps(dv_t + d * s.padded + j, dvalue);
        }
      }
      for (std::size_t r = 0; r < rows; ++r) _mm512_storeu_ps(dq + ((first + r) * heads + h) * kHead, sum[r]);
    }
  }
  for (std::size_t j = 0; j < length; ++j)
    for (std::size_t d = 0; d < kHead; ++d) {
      dk[(j * kv_heads + kv_head) * kHead + d] = dk_t[d * s.padded + j];
      dv[(j * kv_heads + kv_head) * kHead + d] = dv_t[d * s.padded + j];
    }
}

}  // extern "C"
