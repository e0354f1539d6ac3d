// The kernels: compiled once per instruction set (-DISA=avx2 -march=...), for each dtype and both layouts.
//
// Two ways through the elements. The fast one keeps everything in registers and serves what training does all day: no
// activation or ReLU, with or without residual, its bits or their absence. The other works on pieces of a row that stay
// in the first-level cache, and serves the rest: masks and all other activations. No library templates in this file.
#include "activation.h"
#include "problem.h"

namespace {

template <class T> using Vec = typename Lanes<T>::V;
template <class T> using Acc = typename Lanes<T>::A;
template <class T> using Mask = typename Lanes<T>::M;

// One value for the whole row, or one for each element.
template <class T, bool LANES> struct Parameter {
  const Acc<T>* base;
  Vec<T> value{};
  INLINE Parameter(const void* vector, int64_t at) : base((const Acc<T>*)vector) {
    if (!base) return;
    if (LANES) base += at;
    else value = splat<Vec<T>>(base[at]);
  }
  template <class... N> INLINE Vec<T> operator()(int64_t i, N... n) const {
    if constexpr (LANES) return load(base + i, n...);
    else return value;
  }
};

template <class T, bool LANES> struct Affine {
  Parameter<T, LANES> mean, scale, shift;
  INLINE Affine(const Problem& p, int64_t at) : mean(p.mean, at), scale(p.scale, at), shift(p.shift, at) {}
  template <class... N> INLINE Vec<T> operator()(Vec<T> d, int64_t i, N... n) const {
    return d * scale(i, n...) + shift(i, n...);
  }
};

// Where the elements of one row lie, by value so that the compiler sees that no store changes it.
template <class T> struct Row {
  const T *x, *dy, *residual;
  T *y, *dx, *dresidual;
  uint8_t* bits;
  const uint8_t* mask;
  INLINE Row(const Problem& p, int64_t at, int64_t bits_at, int64_t mask_at)
      : x((const T*)p.x + at), dy((const T*)p.dy + at), residual((const T*)p.residual + at), y((T*)p.y + at),
        dx((T*)p.dx + at), dresidual((T*)p.dresidual + at), bits(p.bits + bits_at), mask(p.mask + mask_at) {}
};
template <class T> INLINE Row<T> lane_row(const Problem& p, int64_t n, int64_t i, int64_t c) {
  const int64_t position = n * p.L + i;
  return {p, position * p.C + c, position * ((p.C + 7) / 8) + c / 8, position};
}
template <class T> INLINE Row<T> plane_row(const Problem& p, int64_t n, int64_t i, int64_t c) {
  const int64_t plane = n * p.C + c;
  return {p, plane * p.L + i, plane * ((p.L + 7) / 8) + i / 8, n * p.L + i};
}
// f(row, where its parameters are, its length) for every row of a tile, in the order of memory
template <class T, bool LANES, class F> INLINE void for_rows(const Problem& p, const Tile& t, F f) {
  for (int64_t j = t.j0; j < t.j1; j++) {
    const int64_t n = p.sample(j), group = p.group(n) * p.C;
    if constexpr (LANES)
      for (int64_t i = t.i0; i < t.i1; i++) f(lane_row<T>(p, n, i, t.c0), group + t.c0, t.c1 - t.c0);
    else
      for (int64_t c = t.c0; c < t.c1; c++) f(plane_row<T>(p, n, t.i0, c), group + c, t.i1 - t.i0);
  }
}
// f(i) for whole vectors, f(i, n) for the rest
template <class T, class F> INLINE void for_vectors(int64_t length, F f) {
  int64_t i = 0;
  for (; i + width<T> <= length; i += width<T>) f(i);
  if (i < length) f(i, (int)(length - i));
}
template <bool STREAMED, class T, class... N> INLINE void put(T* p, Vec<T> v, N... n) {
  if constexpr (STREAMED && sizeof...(n) == 0) store_streamed(p, v);
  else store(p, v, n...);
}

// ---- fast way: what a pass sums, or needs of the gradient
enum Source {
  kDeviation,
  kOpen,
  kSign,
  kBits
};  // d itself; dy; dy where the ReLU, recomputed from x, is open; dy by bits

template <Source S, class T, bool LANES, class... N>
INLINE void fetch(const Affine<T, LANES>& a, const Row<T>& row, Vec<T>& g, Vec<T>& d, int64_t i, N... n) {
  d = load(row.x + i, n...) - a.mean(i, n...);
  if constexpr (S == kDeviation) {
    if constexpr (!LANES && sizeof...(n) != 0) d = select(first_lanes<Mask<T>>(n...), d, Vec<T>{});
    g = d;
  } else {
    g = load(row.dy + i, n...);
    if constexpr (S == kSign) g = select(passes<kRelu>(a(d, i, n...)), g, Vec<T>{});
    if constexpr (S == kBits) g = select(read_bits<Mask<T>>(row.bits + i / 8, n...), g, Vec<T>{});
  }
}

template <Source S, class T> void sum_planes(const Problem& p, const Tile& t, double* sums) {
  using V = Vec<T>;
  constexpr int W = width<T>;
  V total_g[kPlaneChannels]{}, total_gd[kPlaneChannels]{};
  for_rows<T, false>(p, t, [&](Row<T> row, int64_t at, int64_t length) __attribute__((always_inline)) {
    const Affine<T, false> a(p, at);
    const int64_t c = at % p.C - t.c0;
    V s[4]{total_g[c]}, q[4]{total_gd[c]};
    auto add = [&](int k, int64_t i, auto... n) __attribute__((always_inline)) {
      V g, d;
      fetch<S, T>(a, row, g, d, i, n...);
      s[k] += g;
      q[k] += g * d;
    };
    int64_t i = 0;
    for (; i + 4 * W <= length; i += 4 * W) add(0, i), add(1, i + W), add(2, i + 2 * W), add(3, i + 3 * W);
    for (; i + W <= length; i += W) add(0, i);
    if (i < length) add(1, i, (int)(length - i));
    total_g[c] = (s[0] + s[1]) + (s[2] + s[3]);
    total_gd[c] = (q[0] + q[1]) + (q[2] + q[3]);
  });
  for (int64_t c = 0, channels = t.c1 - t.c0; c < channels; c++) {
    sums[c] += total(total_g[c]);
    sums[channels + c] += total(total_gd[c]);
  }
}

template <Source S, class T> void sum_lanes(const Problem& p, const Tile& t, double* sums) {
  using V = Vec<T>;
  constexpr int64_t kAhead = 8192;  // bytes
  constexpr int kRun = 64;          // rows summed in the accumulation type before the sum moves to double
  alignas(64) Acc<T> total_g[kLaneChannels], total_gd[kLaneChannels];
  const int64_t channels = t.c1 - t.c0, length = t.i1 - t.i0, rows = (t.j1 - t.j0) * length;
  const Affine<T, true> a(p, p.group(p.sample(t.j0)) * p.C + t.c0);
  auto row = [&](int64_t r) __attribute__((always_inline)) {
    const int64_t j = rows == length ? 0 : r / length;
    return lane_row<T>(p, p.sample(t.j0 + j), t.i0 + r - j * length, t.c0);
  };
  // Four rows side by side are short streams, which the hardware does not foresee.
  const int64_t ahead = p.C * (1 + kAhead / (p.C * (int64_t)sizeof(T)));
  auto add = [&](auto... row) __attribute__((always_inline)) {
    for_vectors<T>(channels, [&](int64_t i, auto... n) __attribute__((always_inline)) {
      V s{}, q{}, g, d;
      (__builtin_prefetch(row.x + i + ahead), ...);
      if constexpr (S != kDeviation) (__builtin_prefetch(row.dy + i + ahead), ...);
      ((fetch<S, T>(a, row, g, d, i, n...), s += g, q += g * d), ...);
      store(total_g + i, load(total_g + i, n...) + s, n...);
      store(total_gd + i, load(total_gd + i, n...) + q, n...);
    });
  };
  for (int64_t r = 0; r < rows;) {
    const int64_t end = rows - r < kRun ? rows : r + kRun;
    memset(total_g, 0, channels * sizeof(Acc<T>));
    memset(total_gd, 0, channels * sizeof(Acc<T>));
    // four rows share one load and store of the accumulators
    for (; r + 4 <= end; r += 4) add(row(r), row(r + 1), row(r + 2), row(r + 3));
    for (; r < end; r++) add(row(r));
    for (int64_t c = 0; c < channels; c++) {
      sums[c] += total_g[c];
      sums[channels + c] += total_gd[c];
    }
  }
}

template <class T, bool LANES, bool RESIDUAL, bool BITS, bool STREAMED> void normalise_fast(const Problem& p,
                                                                                            const Tile& t) {
  const Vec<T> floor = splat<Vec<T>>(p.activation == kRelu ? 0.0 : -__builtin_inf());
  for_rows<T, LANES>(p, t, [&](Row<T> row, int64_t at, int64_t length) __attribute__((always_inline)) {
    const Affine<T, LANES> a(p, at);
    for_vectors<T>(length, [&](int64_t i, [[maybe_unused]] auto... n) __attribute__((always_inline)) {
      Vec<T> z = a(load(row.x + i, n...) - a.mean(i, n...), i, n...);
      if constexpr (RESIDUAL) z += load(row.residual + i, n...);
      if constexpr (BITS) write_bits(row.bits + i / 8, passes<kRelu>(z), n...);
      put<STREAMED>(row.y + i, select(z < floor, floor, z), n...);
    });
  });
  if (STREAMED) fence();
}

template <class T, bool LANES, Source S, bool RESIDUAL, bool STREAMED> void apply_fast(const Problem& p,
                                                                                       const Tile& t) {
  for_rows<T, LANES>(p, t, [&](Row<T> row, int64_t at, int64_t length) __attribute__((always_inline)) {
    const Affine<T, LANES> a(p, at);
    const Parameter<T, LANES> u(p.p, at), v(p.q, at), w(p.r, at);
    for_vectors<T>(length, [&](int64_t i, [[maybe_unused]] auto... n) __attribute__((always_inline)) {
      Vec<T> g, d;
      fetch<S, T>(a, row, g, d, i, n...);
      if constexpr (RESIDUAL) put<STREAMED>(row.dresidual + i, g, n...);
      put<STREAMED>(row.dx + i, g * u(i, n...) + (d * v(i, n...) + w(i, n...)), n...);
    });
  });
  if (STREAMED) fence();
}

// ---- the other way: pieces of a row, in buffers whose lanes beyond the end are zero
constexpr int64_t kPiece = 256;
template <class T> INLINE int64_t vectors(int64_t length) { return (length + width<T> - 1) / width<T>; }

template <class V, class A> void activate(int activation, V* z, int64_t count, A slope) {
  with_code(activation, [&](auto code) {
    for (int64_t k = 0; k < count; k++) z[k] = activated<code.value>(z[k], slope);
  });
}
template <class V, class A> void differentiate(int activation, V* g, const V* z, int64_t count, A slope) {
  with_code(activation, [&](auto code) {
    for (int64_t k = 0; k < count; k++) g[k] = differentiated<code.value>(g[k], z[k], slope);
  });
}
template <class A, class V, class M> void keep_bits(int activation, const V* z, const M* real, int64_t length,
                                                    uint8_t* bits) {
  with_code(activation, [&](auto code) {
    if constexpr (one_bit(code.value))
      for_vectors<A>(length, [&](int64_t i, [[maybe_unused]] auto... n) {
        write_bits(bits + i / 8, M(passes<code.value>(z[i / width<A>]) & real[i / width<A>]), n...);
      });
  });
}

template <class T, bool LANES> struct Piece {
  using V = Vec<T>;
  using M = Mask<T>;
  V g[kPiece / width<T>], d[kPiece / width<T>], z[kPiece / width<T>];
  M real[kPiece / width<T>];  // false under the mask and beyond the end

  // d = x - mean and z = scale d + shift + residual, for elements i0 .. i0 + length of a row; padding is never looked at
  INLINE void prepare(const Problem& p, const Affine<T, LANES>& a, const Row<T>& row, int64_t i0, int64_t length,
                      bool pre_activation) {
    for_vectors<T>(length, [&](int64_t i, [[maybe_unused]] auto... n) __attribute__((always_inline)) {
      const int64_t k = i / width<T>;
      real[k] = first_lanes<M>(width<T>);
      if constexpr (sizeof...(n) != 0) real[k] = first_lanes<M>(n...);
      if (p.mask) real[k] &= LANES ? (M{} + *row.mask) != 0 : read_bools<M>(row.mask + i0 + i, n...);
      d[k] = select(real[k], load(row.x + i0 + i, n...) - a.mean(i0 + i, n...), V{});
      if (!pre_activation) return;
      z[k] = a(d[k], i0 + i, n...);
      if (p.residual) z[k] = select(real[k], z[k] + load(row.residual + i0 + i, n...), V{});
    });
  }
  // g = dy act', zero where nothing is real
  INLINE void gradient(const Problem& p, const Row<T>& row, int64_t i0, int64_t length) {
    const Acc<T> slope = (Acc<T>)p.slope;
    for_vectors<T>(length, [&](int64_t i, [[maybe_unused]] auto... n) __attribute__((always_inline)) {
      V v = load(row.dy + i0 + i, n...);
      if (p.bits) v = gated(read_bits<M>(row.bits + (i0 + i) / 8, n...), v, slope);
      g[i / width<T>] = v;
    });
    if (!p.bits) differentiate(p.activation, g, z, vectors<T>(length), slope);
    for (int64_t k = 0; k < vectors<T>(length); k++) g[k] = select(real[k], g[k], V{});
  }
};
template <class F> INLINE void for_pieces(int64_t length, F f) {
  for (int64_t i = 0; i < length; i += kPiece) f(i, length - i < kPiece ? length - i : kPiece);
}

template <class T, bool LANES> void normalise_any(const Problem& p, const Tile& t) {
  Piece<T, LANES> piece;
  for_rows<T, LANES>(p, t, [&](Row<T> row, int64_t at, int64_t length) __attribute__((always_inline)) {
    const Affine<T, LANES> a(p, at);
    for_pieces(length, [&](int64_t i0, int64_t count) __attribute__((always_inline)) {
      piece.prepare(p, a, row, i0, count, true);
      if (p.bits) keep_bits<Acc<T>>(p.activation, piece.z, piece.real, count, row.bits + i0 / 8);
      activate(p.activation, piece.z, vectors<T>(count), (Acc<T>)p.slope);
      for_vectors<T>(count, [&](int64_t i, [[maybe_unused]] auto... n) __attribute__((always_inline)) {
        const int64_t k = i / width<T>;
        store(row.y + i0 + i, select(piece.real[k], piece.z[k], Vec<T>{}), n...);
      });
    });
  });
}

template <class T, bool LANES, bool GRADIENT> void sum_any(const Problem& p, const Tile& t, double* sums) {
  Piece<T, LANES> piece;
  const int64_t channels = t.c1 - t.c0;
  for_rows<T, LANES>(p, t, [&](Row<T> row, int64_t at, int64_t length) __attribute__((always_inline)) {
    if (LANES && p.mask && !*row.mask) return;
    const Affine<T, LANES> a(p, at);
    const int64_t c = at % p.C - t.c0;
    for_pieces(length, [&](int64_t i0, int64_t count) __attribute__((always_inline)) {
      piece.prepare(p, a, row, i0, count, GRADIENT);
      if (GRADIENT) piece.gradient(p, row, i0, count);
      Vec<T> s{}, q{};
      for_vectors<T>(count, [&](int64_t i, [[maybe_unused]] auto... n) __attribute__((always_inline)) {
        const int64_t k = i / width<T>;
        const Vec<T> g = GRADIENT ? piece.g[k] : piece.d[k], gd = g * piece.d[k];
        if constexpr (LANES) {
          const int lanes = sizeof...(n) ? (int)(count - i) : width<T>;
          for (int e = 0; e < lanes; e++) sums[c + i0 + i + e] += g[e], sums[channels + c + i0 + i + e] += gd[e];
        } else {
          s += g;
          q += gd;
        }
      });
      if (!LANES) sums[c] += total(s), sums[channels + c] += total(q);
    });
  });
}

template <class T, bool LANES> void apply_any(const Problem& p, const Tile& t) {
  Piece<T, LANES> piece;
  for_rows<T, LANES>(p, t, [&](Row<T> row, int64_t at, int64_t length) __attribute__((always_inline)) {
    const Affine<T, LANES> a(p, at);
    const Parameter<T, LANES> u(p.p, at), v(p.q, at), w(p.r, at);
    for_pieces(length, [&](int64_t i0, int64_t count) __attribute__((always_inline)) {
      piece.prepare(p, a, row, i0, count, true);
      piece.gradient(p, row, i0, count);
      for_vectors<T>(count, [&](int64_t i, [[maybe_unused]] auto... n) __attribute__((always_inline)) {
        const int64_t k = i / width<T>, e = i0 + i;
        const Vec<T> g = piece.g[k];
        Vec<T> dx = g * u(e, n...);
        if (p.q) dx += piece.d[k] * v(e, n...) + w(e, n...);
        store(row.dx + e, select(piece.real[k], dx, Vec<T>{}), n...);
        if (p.dresidual) store(row.dresidual + e, g, n...);
      });
    });
  });
}

// ---- which way
template <class F> INLINE void if_else(bool condition, F f) { condition ? f(Code<1>{}) : f(Code<0>{}); }

template <class T, bool LANES> struct Dispatch {
  static void moments(const Problem& p, const Tile& t, double* sums) {
    if (p.mask) return sum_any<T, LANES, false>(p, t, sums);
    if constexpr (LANES) sum_lanes<kDeviation, T>(p, t, sums);
    else sum_planes<kDeviation, T>(p, t, sums);
  }
  static void normalise(const Problem& p, const Tile& t) {
    if (p.mask || p.activation > kRelu) return normalise_any<T, LANES>(p, t);
    if_else(p.residual, [&](auto r) {
      if_else(p.bits, [&](auto b) {
        if_else(p.streamed, [&](auto s) { normalise_fast<T, LANES, r.value, b.value, s.value>(p, t); });
      });
    });
  }
  // f(source) where the fast way can; false where it cannot
  template <class F> static bool with_source(const Problem& p, F f) {
    if (p.mask) return false;
    if (p.activation == kNone) return f(Code<kOpen>{}), true;
    if (p.bits && p.activation <= kRelu6) return f(Code<kBits>{}), true;
    if (!p.bits && !p.residual && p.activation == kRelu) return f(Code<kSign>{}), true;
    return false;
  }
  static void gradient(const Problem& p, const Tile& t, double* sums) {
    if (!with_source(p, [&](auto s) {
          if constexpr (LANES) sum_lanes<(Source)s.value, T>(p, t, sums);
          else sum_planes<(Source)s.value, T>(p, t, sums);
        }))
      sum_any<T, LANES, true>(p, t, sums);
  }
  static void apply(const Problem& p, const Tile& t) {
    if (!p.q || !with_source(p, [&](auto s) {
          if_else(p.dresidual, [&](auto r) {
            if_else(p.streamed, [&](auto st) { apply_fast<T, LANES, (Source)s.value, r.value, st.value>(p, t); });
          });
        }))
      apply_any<T, LANES>(p, t);
  }
};

template <class T> void guess(const Problem& p, const int64_t (*places)[2], int64_t k, int64_t c0, int64_t c1,
                              void* out) {
  Acc<T>* shift = (Acc<T>*)out;
  if (!p.lanes) {
    for (int64_t c = c0; c < c1; c++) {
      Acc<T> first = 0, sum = 0;
      for (int64_t j = 0; j < k; j++) {
        const Acc<T> v = load((const T*)p.x + (places[j][0] * p.C + c) * p.L + places[j][1], 1)[0];
        if (!j) first = v;
        sum += v - first;
      }
      shift[c] = first + sum / k;
    }
    return;
  }
  for_vectors<T>(c1 - c0, [&](int64_t i, [[maybe_unused]] auto... n) __attribute__((always_inline)) {
    Vec<T> first{}, sum{};
    for (int64_t j = 0; j < k; j++) {
      const Vec<T> v = load((const T*)p.x + (places[j][0] * p.L + places[j][1]) * p.C + c0 + i, n...);
      if (!j) first = v;
      sum += v - first;
    }
    store(shift + c0 + i, first + sum / (Acc<T>)k, n...);
  });
}

template <class T> struct Table {
  static void moments(const Problem& p, const Tile& t, double* s) {
    p.lanes ? Dispatch<T, true>::moments(p, t, s) : Dispatch<T, false>::moments(p, t, s);
  }
  static void gradient(const Problem& p, const Tile& t, double* s) {
    p.lanes ? Dispatch<T, true>::gradient(p, t, s) : Dispatch<T, false>::gradient(p, t, s);
  }
  static void normalise(const Problem& p, const Tile& t) {
    p.lanes ? Dispatch<T, true>::normalise(p, t) : Dispatch<T, false>::normalise(p, t);
  }
  static void apply(const Problem& p, const Tile& t) {
    p.lanes ? Dispatch<T, true>::apply(p, t) : Dispatch<T, false>::apply(p, t);
  }
  static constexpr Kernels kernels = {guess<T>, moments, gradient, normalise, apply};
};

}  // namespace

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
extern "C" const Kernels* JOIN(batchnorm_kernels_, ISA)(DType dtype) {
#if defined(__AVX512BF16__)  // the only dtype that gains by it
  return dtype == kBFloat16 ? &Table<bf16>::kernels : batchnorm_kernels_avx512(dtype);
#else
  switch (dtype) {
    case kDouble: return &Table<double>::kernels;
    case kBFloat16: return &Table<bf16>::kernels;
    case kHalf: return &Table<f16>::kernels;
    default: return &Table<float>::kernels;
  }
#endif
}
