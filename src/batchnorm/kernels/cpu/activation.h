// Activations and their derivatives on vectors. The codes are those of batchnorm.core.activation.
//
// float: polynomials fitted for these ranges, within about 2 ulp; double: the C library, lane by lane.
#pragma once
#include "simd.h"

namespace {

enum Activation { kNone, kRelu, kRelu6, kLeakyRelu, kSilu, kHardswish, kGelu, kGeluTanh, kSigmoid, kTanh };
constexpr bool one_bit(int code) { return code == kRelu || code == kRelu6 || code == kLeakyRelu; }

// Horner: c[0] + t (c[1] + t (c[2] + …))
template <int K> INLINE vf polynomial(vf t, const float (&c)[K]) {
  vf s = splat<vf>(c[K - 1]);
  for (int k = K - 2; k >= 0; k--) s = s * t + c[k];
  return s;
}
template <class F> INLINE vd each_lane(vd v, F f) {
  for (int k = 0; k < kDoubles; k++) v[k] = f(v[k]);
  return v;
}

INLINE vf exponential(vf x) {
  x = select(x < -104.0f, splat<vf>(-104.0f), select(x > 89.0f, splat<vf>(89.0f), x));
  const float magic = 0x1.8p23f;  // adding it rounds to an integer, found in the low bits of the sum
  const vf sum = x * 1.44269504f + magic, n = sum - magic;
  const vi k = (vi)sum - 0x4b400000, half = k >> 1;
  const vf r = (x - n * 0.693359375f) + n * 2.12194440e-4f;  // ln 2 in two parts
  const vf e = polynomial(r, {1.0f, 1.0f, 0.49999992f, 0.1666642f, 0.041668226f, 0.008374822f, 0.0013836822f});
  return e * (vf)((half + 127) << 23) *
         (vf)((k - half + 127) << 23);  // two factors: subnormal and infinite results too
}
INLINE vd exponential(vd x) {
  return each_lane(x, [](double v) { return __builtin_exp(v); });
}

INLINE vf hyperbolic_tangent(vf x) {
  const vf a = (vf)((vu)x & 0x7fffffff), s = x * x;
  const vf small =
      x + x * s * polynomial(s, {-0.33333333f, 0.13333304f, -0.05395933f, 0.021769334f, -0.0083450144f, 0.0022937437f});
  const vf large = 1 - 2 / (exponential(a + a) + 1);
  return select(vi(a < 0.625f), small, (vf)((vu)large | ((vu)x & 0x80000000)));
}
INLINE vd hyperbolic_tangent(vd x) {
  return each_lane(x, [](double v) { return __builtin_tanh(v); });
}

template <class V> INLINE V sigmoid(V x) { return 1 / (1 + exponential(-x)); }
template <class V> INLINE V sigmoid(V x, V& complement) {  // and 1 - sigmoid, without cancellation where that is small
  const V e = exponential(-x), s = 1 / (1 + e);
  complement = select(x > 0, e * s, 1 - s);
  return s;
}

// sigmoid(x) and 1 - sigmoid(x), the latter without cancellation
template <class V> INLINE void sigmoids(V x, V& s, V& rest) {
  const V e = exponential(x < 0 ? x : -x), r = 1 / (1 + e);
  s = x < 0 ? e * r : r;
  rest = x < 0 ? r : e * r;
}

// P(Z <= x) of a standard normal Z; bell receives exp(-x^2 / 2)
INLINE vf normal_cdf(vf x, vf& bell) {
  const vf a = (vf)((vu)x & 0x7fffffff), u = 1 / (1 + a * 0.3f);
  bell = exponential(x * x * -0.5f);
  const vf tail =
      bell * polynomial(u, {7.0631664e-07f, 0.11967033f, 0.11973559f, 0.10930176f, 0.081750951f, 0.088157869f,
                            -0.066655329f, 0.17825703f, -0.21909009f, 0.10889105f, -0.02001986f});
  return select(vi(x > 0), 1 - tail, tail);
}
INLINE vd normal_cdf(vd x, vd& bell) {
  bell = exponential(x * x * -0.5);
  return each_lane(x, [](double v) { return 0.5 * __builtin_erfc(v * -0.70710678118654752440); });
}
// the argument of the sigmoid in GELU's tanh form, and its derivative
constexpr double kTwoRootTwoOverPi = 1.59576912160573071176, kCubic = 0.044715;

template <int CODE, class V, class A> INLINE V activated(V z, A slope) {
  const V zero{};
  if constexpr (CODE == kRelu) return z < 0 ? zero : z;
  if constexpr (CODE == kRelu6) return z < 0 ? zero : z > 6 ? splat<V>(6) : z;
  if constexpr (CODE == kLeakyRelu) return z > 0 ? z : z * slope;
  if constexpr (CODE == kSilu) return z / (1 + exponential(-z));
  if constexpr (CODE == kHardswish) return z * activated<kRelu6>(z + 3, slope) / 6;
  if constexpr (CODE == kGelu) {
    V bell;
    return z * normal_cdf(z, bell);
  }
  if constexpr (CODE == kGeluTanh) return z * sigmoid(z * (A)kTwoRootTwoOverPi * (1 + (A)kCubic * z * z));
  if constexpr (CODE == kSigmoid) return sigmoid(z);
  if constexpr (CODE == kTanh) return hyperbolic_tangent(z);
  return z;
}

// where a two-valued derivative is 1; written so that NaN passes where torch lets it pass
template <int CODE, class V> INLINE auto passes(V z) {
  if constexpr (CODE == kRelu6) return ~((z <= 0) | (z >= 6));
  else if constexpr (CODE == kLeakyRelu) return z > 0;
  else return ~(z <= 0);
}
template <class V, class A, class M> INLINE V gated(M pass, V g, A slope) {
  return pass ? g : slope == 0 ? V{} : g * slope;
}

template <int CODE, class V, class A> INLINE V differentiated(V g, V z, A slope) {
  V s, rest;
  if constexpr (CODE == kSilu) {
    sigmoids(z, s, rest);
    return g * (s * (1 + z * rest));
  }
  if constexpr (CODE == kHardswish) return g * (z <= -3 ? V{} : z < 3 ? z / 3 + (A)0.5 : splat<V>(1));
  if constexpr (CODE == kGelu) {
    V bell;
    const V cdf = normal_cdf(z, bell);
    return g * (cdf + z * bell * (A)0.39894228040143267794);
  }
  if constexpr (CODE == kGeluTanh) {
    const V square = z * z;
    sigmoids(z * (A)kTwoRootTwoOverPi * (1 + (A)kCubic * square), s, rest);
    return g * (s + z * s * rest * (A)kTwoRootTwoOverPi * (1 + (A)(3 * kCubic) * square));
  }
  if constexpr (CODE == kSigmoid) {
    sigmoids(z, s, rest);
    return g * (s * rest);
  }
  if constexpr (CODE == kTanh) {
    const V t = hyperbolic_tangent(z);
    return g * (1 - t * t);
  }
  if constexpr (one_bit(CODE)) return gated(passes<CODE>(z), g, slope);
  return g;
}

// Calls f(std::integral_constant-like) with the code as a compile-time constant.
template <int CODE> struct Code { static constexpr int value = CODE; };
template <class F> INLINE void with_code(int code, F f) {
  switch (code) {
    case kRelu: return f(Code<kRelu>{});
    case kRelu6: return f(Code<kRelu6>{});
    case kLeakyRelu: return f(Code<kLeakyRelu>{});
    case kSilu: return f(Code<kSilu>{});
    case kHardswish: return f(Code<kHardswish>{});
    case kGelu: return f(Code<kGelu>{});
    case kGeluTanh: return f(Code<kGeluTanh>{});
    case kSigmoid: return f(Code<kSigmoid>{});
    case kTanh: return f(Code<kTanh>{});
    default: return f(Code<kNone>{});
  }
}

}  // namespace
