// Vectors: load, convert, store, select, one bit a lane.
//
// Written on the vector extensions of GCC and Clang, so the generic path compiles everywhere; x86 intrinsics stand in
// where the generic code is slow. This header is compiled once per instruction set: everything in it has internal linkage,
// because a function merged by the linker could carry AVX-512 into the baseline.
//
//   V   a vector of the accumulation type (float, or double for double), W lanes; W is a multiple of 8, so that the
//       bits of a whole vector are whole bytes
//   n   trailing argument: only the first n < W lanes; they alone are touched in memory, the others read as zero
#pragma once
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif
#define INLINE inline __attribute__((always_inline))

namespace {

struct bf16 { uint16_t raw; };
struct f16 { uint16_t raw; };

#if defined(__AVX512F__)
constexpr int kFloats = 16;
#else
constexpr int kFloats = 8;
#endif
constexpr int kDoubles = 8;
typedef float vf __attribute__((vector_size(4 * kFloats)));
typedef int32_t vi __attribute__((vector_size(4 * kFloats)));
typedef uint32_t vu __attribute__((vector_size(4 * kFloats)));
typedef uint16_t vh __attribute__((vector_size(2 * kFloats)));
typedef double vd __attribute__((vector_size(8 * kDoubles)));
typedef int64_t vl __attribute__((vector_size(8 * kDoubles)));

template <class T> struct Lanes {
  using A = float;
  using V = vf;
  using M = vi;
  using Raw = vf;
};
template <> struct Lanes<double> {
  using A = double;
  using V = vd;
  using M = vl;
  using Raw = vd;
};
template <> struct Lanes<bf16> : Lanes<float> { using Raw = vh; };
template <> struct Lanes<f16> : Lanes<float> { using Raw = vh; };
template <class T> constexpr int width = sizeof(typename Lanes<T>::V) / sizeof(typename Lanes<T>::A);

template <class V, class S> INLINE V splat(S s) { return V{} + (decltype(V{}[0] + V{}[0]))s; }
template <class V, class M> INLINE V select(M m, V a, V b) { return m ? a : b; }
template <class M> INLINE M first_lanes(int n) {
  M lane;
  for (unsigned k = 0; k < sizeof(M) / sizeof(lane[0]); k++) lane[k] = k;
  return lane < n;
}

// ---- memory <-> raw vector
template <class R> INLINE R read(const void* p) {
  R r;
  memcpy(&r, p, sizeof r);
  return r;
}
template <class R> INLINE void write(void* p, R r) { memcpy(p, &r, sizeof r); }
template <class R> INLINE void stream(void* p, R r) {  // past the caches; p aligned to 16 bytes or more
#if defined(__AVX512F__)
  if constexpr (sizeof(R) == 64) return _mm512_stream_si512((__m512i*)p, (__m512i)r);
#endif
#if defined(__AVX2__)
  if constexpr (sizeof(R) == 32) return _mm256_stream_si256((__m256i*)p, (__m256i)r);
#endif
#if defined(__x86_64__)
  __m128i part[sizeof(R) / 16];
  memcpy(part, &r, sizeof r);
  for (unsigned k = 0; k < sizeof(R) / 16; k++) _mm_stream_si128((__m128i*)p + k, part[k]);
#else
  write(p, r);
#endif
}
INLINE void fence() {  // streamed stores become visible before the task ends
#if defined(__x86_64__)
  _mm_sfence();
#endif
}
#if defined(__AVX512BW__) && defined(__AVX512VL__)
template <class R> INLINE R read(const void* p, int n) {
  const uint32_t m = (1u << n) - 1;
  if constexpr (sizeof(R) == 32) return (R)_mm256_maskz_loadu_epi16((__mmask16)m, p);
  else if constexpr (sizeof(R{}[0]) == 4) return (R)_mm512_maskz_loadu_ps((__mmask16)m, p);
  else return (R)_mm512_maskz_loadu_pd((__mmask8)m, p);
}
template <class R> INLINE void write(void* p, R r, int n) {
  const uint32_t m = (1u << n) - 1;
  if constexpr (sizeof(R) == 32) _mm256_mask_storeu_epi16(p, (__mmask16)m, (__m256i)r);
  else if constexpr (sizeof(R{}[0]) == 4) _mm512_mask_storeu_ps(p, (__mmask16)m, (__m512)r);
  else _mm512_mask_storeu_pd(p, (__mmask8)m, (__m512d)r);
}
#else
template <class R> using element = __typeof__(R{}[0] + R{}[0]);
template <class R> INLINE R read(const void* p, int n) {
#if defined(__AVX2__)
  if constexpr (sizeof(R{}[0]) == 4) return (R)_mm256_maskload_ps((const float*)p, (__m256i)first_lanes<vi>(n));
#endif
  constexpr int size = sizeof(R{}[0]);
  R r{};
  for (int k = 0; k < n; k++) memcpy((char*)&r + k * size, (const char*)p + k * size, size);
  return r;
}
template <class R> INLINE void write(void* p, R r, int n) {
#if defined(__AVX2__)
  if constexpr (sizeof(R{}[0]) == 4) return _mm256_maskstore_ps((float*)p, (__m256i)first_lanes<vi>(n), (__m256)r);
#endif
  constexpr int size = sizeof(R{}[0]);
  for (int k = 0; k < n; k++) memcpy((char*)p + k * size, (const char*)&r + k * size, size);
}
#endif

// ---- raw vector <-> accumulation type; halves round to nearest even
template <class T> INLINE vf decode(vf r) { return r; }
template <class T> INLINE vd decode(vd r) { return r; }
template <class T> INLINE vf encode(vf v) { return v; }
template <class T> INLINE vd encode(vd v) { return v; }
INLINE vu widen(vh h) {
#if defined(__AVX512F__)
  return (vu)_mm512_cvtepu16_epi32((__m256i)h);
#elif defined(__AVX2__)
  return (vu)_mm256_cvtepu16_epi32((__m128i)h);
#else
  return __builtin_convertvector(h, vu);
#endif
}
INLINE vh narrow(vu u) {  // values below 2^16
#if defined(__AVX512F__)
  return (vh)_mm512_cvtepi32_epi16((__m512i)u);
#elif defined(__AVX2__)
  return (vh)_mm256_castsi256_si128(_mm256_permute4x64_epi64(_mm256_packus_epi32((__m256i)u, (__m256i)u), 0x08));
#else
  return __builtin_convertvector(u, vh);
#endif
}
template <class T> INLINE vf decode(vh h) {
  if constexpr (sizeof(T) == sizeof(bf16) && __is_same(T, bf16)) return (vf)(widen(h) << 16);
#if defined(__AVX512F__)
  return (vf)_mm512_cvtph_ps((__m256i)h);
#elif defined(__F16C__)
  return (vf)_mm256_cvtph_ps((__m128i)h);
#else
  const vu u = widen(h), magnitude = (u & 0x7fff) << 13, sign = (u & 0x8000) << 16;
  const vf value = (vf)magnitude * 0x1p112f;  // the exponent moves by 112; subnormal halves come out right too
  const vu special = magnitude | 0x7f800000;  // infinity and NaN keep their mantissa
  return (vf)(select(vi((u & 0x7c00) == 0x7c00), special, (vu)value) | sign);
#endif
}
template <class T> INLINE vh encode_half(vf v) {
  if constexpr (__is_same(T, bf16)) {
#if defined(__AVX512BF16__)
    return (vh)_mm512_cvtneps_pbh((__m512)v);
#else
    const vu u = (vu)v, rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
    return narrow(select(vi(v != v), splat<vu>(0x7fc0), rounded));
#endif
  } else {
#if defined(__AVX512F__)
    return (vh)_mm512_cvtps_ph((__m512)v, 0);
#elif defined(__F16C__)
    return (vh)_mm256_cvtps_ph((__m256)v, 0);
#else
    const vu u = (vu)v, magnitude = u & 0x7fffffff, sign = (u >> 16) & 0x8000;
    const vu normal = (magnitude + 0xfff + ((magnitude >> 13) & 1) - (112u << 23)) >> 13;
    const vu small = (vu)((vf)magnitude + 0.5f) - 0x3f000000;  // adding 1/2 rounds to the spacing of subnormal halves
    vu half = select(vi(magnitude < (113u << 23)), small, normal);
    half = select(vi(magnitude >= (143u << 23)), splat<vu>(0x7c00), half);
    half = select(vi(magnitude > 0x7f800000), splat<vu>(0x7e00), half);
    return narrow(half | sign);
#endif
  }
}

template <class T, class... N> INLINE typename Lanes<T>::V load(const T* p, N... n) {
  return decode<T>(read<typename Lanes<T>::Raw>(p, n...));
}
template <class T> INLINE typename Lanes<T>::Raw convert(typename Lanes<T>::V v) {
  if constexpr (sizeof(T) == 2) return encode_half<T>(v);
  else return encode<T>(v);
}
template <class T, class... N> INLINE void store(T* p, typename Lanes<T>::V v, N... n) {
  write(p, convert<T>(v), n...);
}
template <class T> INLINE void store_streamed(T* p, typename Lanes<T>::V v) { stream(p, convert<T>(v)); }

// ---- one bit a lane, and one byte a lane
template <class M> INLINE void write_bits(uint8_t* p, M m, int n = sizeof(M) / sizeof(M{}[0])) {
  uint16_t bits = 0;
#if defined(__AVX512DQ__)
  if constexpr (sizeof(m[0]) == 4) bits = _mm512_movepi32_mask((__m512i)m);
  else bits = _mm512_movepi64_mask((__m512i)m);
#elif defined(__AVX2__)
  if constexpr (sizeof(m[0]) == 4) bits = _mm256_movemask_ps((__m256)m);
  else
    for (int k = 0; k < kDoubles; k++) bits |= (m[k] & 1) << k;
#else
  for (unsigned k = 0; k < sizeof(M) / sizeof(m[0]); k++) bits |= (m[k] & 1) << k;
#endif
  memcpy(p, &bits, n > 8 ? 2 : 1);
}
template <class M> INLINE M read_bits(const uint8_t* p, int n = sizeof(M) / sizeof(M{}[0])) {
  uint16_t bits = 0;
  memcpy(&bits, p, n > 8 ? 2 : 1);
#if defined(__AVX512DQ__)
  if constexpr (sizeof(M{}[0]) == 4) return (M)_mm512_movm_epi32(bits);
  else return (M)_mm512_movm_epi64((__mmask8)bits);
#else
  M bit;
  for (unsigned k = 0; k < sizeof(M) / sizeof(bit[0]); k++) bit[k] = 1 << k;
  return ((M{} + bits) & bit) != 0;
#endif
}
template <class M> INLINE M read_bools(const uint8_t* p, int n = sizeof(M) / sizeof(M{}[0])) {
  M m{};
  for (int k = 0; k < n; k++) m[k] = p[k];
  return m != 0;
}

template <class V> INLINE double total(V v) {
  double s = 0;
  for (unsigned k = 0; k < sizeof(V) / sizeof(v[0]); k++) s += v[k];
  return s;
}

}  // namespace
