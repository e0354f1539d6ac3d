// The operators: from torch's tensors to problems, and the algebra on vectors between the passes.
//
// Written against LibTorch's stable ABI, so that one built file serves every Python and every torch from 2.10 on.
#include <math.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>
#include "driver.h"
#include "isa.h"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Maybe = std::optional<Tensor>;
enum { kOneBitFirst = 1, kOneBitLast = 3 };  // codes of activations whose derivative has two values
constexpr double kBadShift = 4;              // squared distance of mean and shift, in variances, that costs accuracy
constexpr int kAttempts = 3;

struct Settings {
  std::atomic<const Isa*> isa{nullptr};
  std::atomic<int64_t> huge_page_bytes{32 << 20}, stream_bytes{16 << 20};
  Settings() {
    const char* name = getenv("BATCHNORM_CPU_ISA");
    isa = find_isa(name ? name : "");
    if (!isa) isa = find_isa("");
  }
} settings;

// ---- tensors
DType dtype_of(const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Float: return kFloat;
    case ScalarType::Double: return kDouble;
    case ScalarType::BFloat16: return kBFloat16;
    case ScalarType::Half: return kHalf;
    default:
      STD_TORCH_CHECK(false, "batchnorm: the CPU kernels take float32, float64, bfloat16 and float16");
      return kFloat;
  }
}
int32_t torch_dtype(DType d) {
  return d == kFloat      ? aoti_torch_dtype_float32()
         : d == kDouble   ? aoti_torch_dtype_float64()
         : d == kBFloat16 ? aoti_torch_dtype_bfloat16()
                          : aoti_torch_dtype_float16();
}
int64_t bytes_of(DType d) { return d == kDouble ? 8 : d == kFloat ? 4 : 2; }

Tensor empty(std::initializer_list<int64_t> sizes, int32_t dtype) {
  int64_t strides[2] = {sizes.size() == 2 ? sizes.begin()[1] : 1, 1};
  AtenTensorHandle h;
  STABLE_TORCH_ERROR_CODE_CHECK(
      aoti_torch_empty_strided(sizes.size(), sizes.begin(), strides, dtype, aoti_torch_device_type_cpu(), 0, &h));
  return Tensor(h);
}
Tensor empty_like(const Tensor& x, DType dtype) {
  AtenTensorHandle h;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(x.dim(), x.sizes().data(), x.strides().data(),
                                                         torch_dtype(dtype), aoti_torch_device_type_cpu(), 0, &h));
  Tensor y(h);
  // A fresh large block costs more in page faults than in arithmetic, unless it comes in huge pages.
  const int64_t bytes = x.numel() * bytes_of(dtype), least = settings.huge_page_bytes;
  if (least > 0 && bytes >= least) {
    const uintptr_t begin = ((uintptr_t)y.data_ptr() + 4095) & ~4095ull,
                    end = ((uintptr_t)y.data_ptr() + bytes) & ~4095ull;
    madvise((void*)begin, end - begin, MADV_HUGEPAGE);
  }
  return y;
}
// v's memory must be laid out as x's
const void* like(const Tensor& x, const Maybe& v, const char* name) {
  if (!v) return nullptr;
  bool same = v->dim() == x.dim() && dtype_of(*v) == dtype_of(x);
  for (int64_t d = 0; same && d < x.dim(); d++)
    same = v->size(d) == x.size(d) && (x.size(d) == 1 || x.numel() == 0 || v->stride(d) == x.stride(d));
  STD_TORCH_CHECK(same, "batchnorm: ", name, " must have the dtype, sizes and strides of x");
  return v->data_ptr();
}
const void* vector(const Problem& p, DType acc, const Tensor& v) {
  STD_TORCH_CHECK(v.numel() == p.groups * p.C && dtype_of(v) == acc && v.is_contiguous(),
                  "batchnorm: vectors must be contiguous, (groups, channels), in the accumulation dtype");
  return v.data_ptr();
}
template <class F> auto with_acc(DType d, F f) { return d == kDouble ? f(double{}) : f(float{}); }

// A parameter or a buffer of any dtype.
struct Values {
  void* data = nullptr;
  DType dtype = kFloat;
  int64_t stride = 1;  // a buffer may be a column of another tensor
  Values() = default;
  explicit Values(const Tensor& t) : data(t.data_ptr()), dtype(dtype_of(t)), stride(t.dim() == 1 ? t.stride(0) : 1) {
    STD_TORCH_CHECK(t.dim() == 1 || t.is_contiguous(),
                    "batchnorm: values of more than one dimension must be contiguous");
  }
  explicit Values(const Maybe& t) {
    if (t) *this = Values(*t);
  }
  double get(int64_t i) const {
    i *= stride;
    switch (dtype) {
      case kFloat: return ((const float*)data)[i];
      case kDouble: return ((const double*)data)[i];
      case kBFloat16: return (float)((const c10::BFloat16*)data)[i];
      default: return (float)((const c10::Half*)data)[i];
    }
  }
  double get_or(int64_t i, double none) const { return data ? get(i) : none; }
  void set(int64_t i, double v) const {
    i *= stride;
    switch (dtype) {
      case kFloat: ((float*)data)[i] = (float)v; break;
      case kDouble: ((double*)data)[i] = v; break;
      case kBFloat16: ((c10::BFloat16*)data)[i] = (float)v; break;
      default: ((c10::Half*)data)[i] = (float)v;
    }
  }
  bool finite(double v) const {  // once it has this dtype
    double kept = 0;
    Values one;
    one.data = &kept, one.dtype = dtype;
    one.set(0, v);
    return isfinite(one.get(0));
  }
};

// ---- an input seen as a problem
struct Input {
  Problem p{};
  DType dtype, acc;
  const Kernels* kernels;
  int64_t bits_rows, bits_row_bytes;

  Input(const Tensor& x, int activation, double slope) : dtype(dtype_of(x)), acc(dtype == kDouble ? kDouble : kFloat) {
    const auto sizes = x.sizes(), strides = x.strides();
    const int64_t dims = x.dim();
    STD_TORCH_CHECK(dims >= 2, "batchnorm: x must have a batch and a channel dimension");
    p.N = sizes[0], p.C = sizes[1], p.L = 1;
    for (int64_t d = 2; d < dims; d++) p.L *= sizes[d];
    bool planes = x.is_contiguous();
    p.lanes = dims == 2 || !planes;
    if (!planes) {
      int64_t expected = p.C;
      bool dense = strides[1] == 1;
      for (int64_t d = dims - 1; d >= 0; d--)
        if (d != 1) {
          dense &= sizes[d] == 1 || strides[d] == expected;
          expected *= sizes[d];
        }
      STD_TORCH_CHECK(dense || x.numel() == 0, "batchnorm: x must be dense, contiguous or channels-last");
    }
    bits_rows = p.N * (p.lanes ? p.L : p.C), bits_row_bytes = ceil_div(p.lanes ? p.C : p.L, 8);
    p.groups = p.block = 1, p.activation = activation, p.slope = slope;
    p.x = x.data_ptr();
    kernels = settings.isa.load()->table(dtype);
  }
  void group(int64_t groups, int64_t block, const Maybe& index, const Maybe& mask) {
    p.groups = groups, p.block = block;
    STD_TORCH_CHECK(groups >= 1 && block >= 1, "batchnorm: groups and block must be at least 1");
    if (mask) {
      STD_TORCH_CHECK(mask->numel() == p.N * p.L && mask->is_contiguous() && mask->scalar_type() == ScalarType::Bool,
                      "batchnorm: mask must be bool, (samples, positions), contiguous");
      p.mask = (const uint8_t*)mask->data_ptr();
    }
    if (!index) return;
    STD_TORCH_CHECK(index->numel() == p.N && index->is_contiguous() && index->scalar_type() == ScalarType::Long,
                    "batchnorm: index must be int64, one a sample, contiguous");
    p.index = (const int64_t*)index->data_ptr();
    for (int64_t n = 0; n < p.N; n++)
      STD_TORCH_CHECK(p.index[n] >= 0 && p.index[n] < groups, "batchnorm: index must lie in 0 .. groups - 1");
  }
  // Last step: a view of the same memory with longer rows or fewer samples, where nothing tells the views apart.
  void simplify() {
    if (!p.bits && p.L == 1 && p.C > 1) p.lanes = true;
    if (!p.bits && p.C == 1) p.lanes = false;
    if ((p.lanes || p.C == 1) && p.groups == 1 && !(p.bits && !p.lanes)) p.L *= p.N, p.N = 1;
  }
  Tensor keep_bits(bool keep) {
    if (!keep || p.activation < kOneBitFirst || p.activation > kOneBitLast) return empty({0}, aoti_torch_dtype_uint8());
    Tensor bits = empty({bits_rows, bits_row_bytes}, aoti_torch_dtype_uint8());
    p.bits = (uint8_t*)bits.data_ptr();
    return bits;
  }
  void use_bits(const Maybe& bits) {
    if (!bits) return;
    STD_TORCH_CHECK(
        bits->numel() == bits_rows * bits_row_bytes && bits->is_contiguous() && bits->scalar_type() == ScalarType::Byte,
        "batchnorm: bits do not belong to x");
    p.bits = (uint8_t*)bits->data_ptr();
  }
  // Streamed stores must fill whole lines.
  void choose_stores(const void* out, const void* other) {
    const int64_t row = (p.lanes ? p.C : p.L) * bytes_of(dtype), least = settings.stream_bytes;
    p.streamed = least > 0 && p.elements() * bytes_of(dtype) >= least && row % 64 == 0 &&
                 ((uintptr_t)out | (uintptr_t)other) % 64 == 0;
  }
  Tensor vectors() const { return empty({p.groups, p.C}, torch_dtype(acc)); }
};

// scale and shift of y = scale (x - mean) + shift; backward computes the same bits again
template <class A> void affine(A* scale, A* shift, int64_t c, double variance, double eps, const Values& weight,
                               const Values& bias) {
  scale[c] = (A)(weight.get_or(c, 1) / sqrt(variance + eps));
  shift[c] = (A)bias.get_or(c, 0);
}

// Sums with a guess as shift; then mean and m2 as they are, or once more where the guess was bad.
template <class A, class Then, class Map>
void measure(Input& in, const Groups& groups, const double* count, A* mean, A* m2, Then then, const Problem& maps,
             Map map) {
  Problem sums = in.p;
  const auto guess = std::make_unique<A[]>(in.p.groups * in.p.C);
  sums.mean = guess.get();
  sum_then_map(
      sums, groups, in.kernels->moments,
      [&](int64_t g, int64_t c0, int64_t c1) {
        int64_t places[16][2];
        const int64_t k = groups.places(sums, g, (int64_t)count[g], places);
        if (k) in.kernels->guess(sums, places, k, c0, c1, guess.get() + g * in.p.C);
      },
      [&](int64_t g, int64_t c0, int64_t c1, const double* total, int attempt) {
        bool good = true;
        for (int64_t c = c0, at = g * in.p.C + c0; c < c1; c++, at++) {
          const double n = count[g], s = n ? total[c - c0] / n : 0, q = total[c1 - c0 + c - c0] - total[c - c0] * s;
          const double centre = n ? guess[at] + s : 0;
          mean[at] = (A)centre;
          m2[at] = (A)(q < 0 ? 0 : q);
          if (attempt + 1 < kAttempts && s * s * n > kBadShift * q) good = false, guess[at] = (A)centre;
        }
        if (good) then(c0, c1);
        return good;
      },
      maps, map, bytes_of(in.dtype));
}

// ---- operators
std::tuple<Tensor, Tensor, Tensor> moments(Tensor x, Maybe mask, int64_t group_count, int64_t block, Maybe index) {
  Input in(x, 0, 0);
  in.group(group_count, block, index, mask);
  Tensor count = empty({group_count}, aoti_torch_dtype_float64()), mean = in.vectors(), m2 = in.vectors();
  in.simplify();
  const Groups groups(in.p);
  double* n = (double*)count.data_ptr();
  for (int64_t g = 0; g < group_count; g++) n[g] = (double)groups.count(in.p, g);
  with_acc(in.acc, [&](auto zero) {
    using A = decltype(zero);
    measure(
        in, groups, n, (A*)mean.data_ptr(), (A*)m2.data_ptr(), [](int64_t, int64_t) {}, in.p,
        (decltype(in.kernels->normalise))nullptr);
  });
  return {count, mean, m2};
}

void set_affine(Input& in, const Tensor& mean, const Tensor& scale, const Tensor& shift) {
  in.p.mean = vector(in.p, in.acc, mean), in.p.scale = vector(in.p, in.acc, scale),
  in.p.shift = vector(in.p, in.acc, shift);
}

std::tuple<Tensor, Tensor> normalise(Tensor x, Tensor mean, Tensor scale, Tensor shift, Maybe residual, Maybe mask,
                                     int64_t block, Maybe index, int64_t activation, double slope, bool keep_bits) {
  Input in(x, (int)activation, slope);
  in.group(mean.size(0), block, index, mask);
  set_affine(in, mean, scale, shift);
  in.p.residual = like(x, residual, "residual");
  Tensor y = empty_like(x, in.dtype), bits = in.keep_bits(keep_bits);
  in.p.y = y.data_ptr();
  in.simplify();
  in.choose_stores(in.p.y, nullptr);
  in_memory_order(in.p, in.kernels->normalise);
  return {y, bits};
}

std::tuple<Tensor, Tensor> grad_reduce(Tensor dy, Tensor x, Tensor mean, Tensor scale, Tensor shift, Maybe residual,
                                       Maybe bits, Maybe mask, int64_t block, Maybe index, int64_t activation,
                                       double slope) {
  Input in(x, (int)activation, slope);
  in.group(mean.size(0), block, index, mask);
  set_affine(in, mean, scale, shift);
  in.p.dy = like(x, dy, "dy"), in.p.residual = like(x, residual, "residual");
  in.use_bits(bits);
  Tensor sum_g = in.vectors(), sum_gx = in.vectors();
  in.simplify();
  const Groups groups(in.p);
  const Values g_out(sum_g), gx_out(sum_gx);
  sum_then_map(
      in.p, groups, in.kernels->gradient, [](int64_t, int64_t, int64_t) {},
      [&](int64_t g, int64_t c0, int64_t c1, const double* total, int) {
        for (int64_t c = c0; c < c1; c++) {
          g_out.set(g * in.p.C + c, total[c - c0]);
          gx_out.set(g * in.p.C + c, total[c1 - c0 + c - c0]);
        }
        return true;
      },
      in.p, (decltype(in.kernels->apply))nullptr, bytes_of(in.dtype));
  return {sum_g, sum_gx};
}

std::tuple<Tensor, Tensor> grad_apply(Tensor dy, Tensor x, Tensor mean, Tensor scale, Tensor shift, Tensor p, Tensor q,
                                      Tensor r, Maybe residual, Maybe bits, Maybe mask, int64_t block, Maybe index,
                                      int64_t activation, double slope, bool need_residual) {
  Input in(x, (int)activation, slope);
  in.group(mean.size(0), block, index, mask);
  set_affine(in, mean, scale, shift);
  in.p.p = vector(in.p, in.acc, p), in.p.q = vector(in.p, in.acc, q), in.p.r = vector(in.p, in.acc, r);
  in.p.dy = like(x, dy, "dy"), in.p.residual = like(x, residual, "residual");
  in.use_bits(bits);
  Tensor dx = empty_like(x, in.dtype),
         dresidual = need_residual ? empty_like(x, in.dtype) : empty({0}, torch_dtype(in.dtype));
  in.p.dx = dx.data_ptr(), in.p.dresidual = need_residual ? dresidual.data_ptr() : nullptr;
  in.simplify();
  in.choose_stores(in.p.dx, in.p.dresidual);
  in_memory_order(in.p, in.kernels->apply);
  return {dx, dresidual};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> forward(Tensor x, Maybe weight, Maybe bias, Maybe residual,
                                                           double eps, int64_t activation, double slope,
                                                           bool keep_bits) {
  Input in(x, (int)activation, slope);
  in.p.residual = like(x, residual, "residual");
  Tensor y = empty_like(x, in.dtype), count = empty({1}, aoti_torch_dtype_float64()), mean = in.vectors(),
         m2 = in.vectors();
  Tensor bits = in.keep_bits(keep_bits);
  const Values w(weight), b(bias);
  in.p.y = y.data_ptr();
  in.simplify();
  in.choose_stores(in.p.y, nullptr);
  const Groups groups(in.p);
  double& n = *(double*)count.data_ptr();
  n = (double)(in.p.N * in.p.L);
  with_acc(in.acc, [&](auto zero) {
    using A = decltype(zero);
    const auto scratch = std::make_unique<A[]>(2 * in.p.C);
    A *scale = scratch.get(), *shift = scale + in.p.C, *m = (A*)mean.data_ptr(), *square = (A*)m2.data_ptr();
    Problem maps = in.p;
    maps.mean = m, maps.scale = scale, maps.shift = shift;
    measure(
        in, groups, &n, m, square,
        [&](int64_t c0, int64_t c1) {
          for (int64_t c = c0; c < c1; c++) affine(scale, shift, c, n ? square[c] / n : 0, eps, w, b);
        },
        maps, in.kernels->normalise);
  });
  return {y, count, mean, m2, bits};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> evaluate(Tensor x, Tensor running_mean, Tensor running_var, Maybe weight,
                                                    Maybe bias, Maybe residual, double eps, int64_t activation,
                                                    double slope, bool keep_bits) {
  Input in(x, (int)activation, slope);
  in.p.residual = like(x, residual, "residual");
  Tensor y = empty_like(x, in.dtype), mean = in.vectors(), variance = in.vectors(), bits = in.keep_bits(keep_bits);
  const Values w(weight), b(bias), from_mean(running_mean), from_variance(running_var);
  in.p.y = y.data_ptr();
  in.simplify();
  in.choose_stores(in.p.y, nullptr);
  with_acc(in.acc, [&](auto zero) {
    using A = decltype(zero);
    const auto scratch = std::make_unique<A[]>(2 * in.p.C);
    A *scale = scratch.get(), *shift = scale + in.p.C, *m = (A*)mean.data_ptr(), *v = (A*)variance.data_ptr();
    for (int64_t c = 0; c < in.p.C; c++) {
      m[c] = (A)from_mean.get(c), v[c] = (A)from_variance.get(c);
      affine(scale, shift, c, v[c], eps, w, b);
    }
    in.p.mean = m, in.p.scale = scale, in.p.shift = shift;
    in_memory_order(in.p, in.kernels->normalise);
  });
  return {y, mean, variance, bits};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> backward(Tensor dy, Tensor x, Tensor mean, Tensor m2, int64_t positions,
                                                    Maybe weight, Maybe bias, Maybe residual, Maybe bits, double eps,
                                                    int64_t activation, double slope, bool training,
                                                    bool need_residual) {
  Input in(x, (int)activation, slope);
  in.p.mean = vector(in.p, in.acc, mean);
  const void* squares = vector(in.p, in.acc, m2);
  const double count = (double)positions;  // in double, as in forward: the ReLU is recomputed from the same scale
  in.p.dy = like(x, dy, "dy"), in.p.residual = like(x, residual, "residual");
  in.use_bits(bits);
  Tensor dx = empty_like(x, in.dtype),
         dresidual = need_residual ? empty_like(x, in.dtype) : empty({0}, torch_dtype(in.dtype));
  Tensor dweight = empty({in.p.C}, torch_dtype(weight ? dtype_of(*weight) : in.acc));
  Tensor dbias = empty({in.p.C}, torch_dtype(bias ? dtype_of(*bias) : in.acc));
  const Values w(weight), b(bias), dw(dweight), db(dbias);
  in.p.dx = dx.data_ptr(), in.p.dresidual = need_residual ? dresidual.data_ptr() : nullptr;
  in.simplify();
  in.choose_stores(in.p.dx, in.p.dresidual);
  const Groups groups(in.p);
  with_acc(in.acc, [&](auto zero) {
    using A = decltype(zero);
    const int64_t C = in.p.C;
    const auto scratch = std::make_unique<A[]>(4 * C);
    A *scale = scratch.get(), *shift = scale + C, *q = shift + C, *r = q + C;
    in.p.scale = in.p.p = scale, in.p.shift = shift;
    if (training) in.p.q = q, in.p.r = r;
    sum_then_map(
        in.p, groups, in.kernels->gradient,
        [&](int64_t, int64_t c0, int64_t c1) {
          for (int64_t c = c0; c < c1; c++) affine(scale, shift, c, ((const A*)squares)[c] / count, eps, w, b);
        },
        [&](int64_t, int64_t c0, int64_t c1, const double* total, int) {
          for (int64_t c = c0; c < c1; c++) {
            const double sum_g = total[c - c0], sum_gx = total[c1 - c0 + c - c0],
                         inverse = 1 / sqrt(((const A*)squares)[c] / count + eps);
            db.set(c, sum_g);
            dw.set(c, sum_gx * inverse);
            q[c] = (A)(-scale[c] * inverse * inverse * sum_gx / count);
            r[c] = (A)(-scale[c] * sum_g / count);
          }
          return true;
        },
        in.p, in.kernels->apply, 2 * bytes_of(in.dtype));
  });
  return {dx, dweight, dbias, dresidual};
}

void update_(Maybe running_mean, Maybe running_var, Maybe num_batches_tracked, Tensor count, Tensor mean, Tensor m2,
             std::optional<double> momentum) {
  double share = momentum.value_or(0);
  if (num_batches_tracked) {
    STD_TORCH_CHECK(num_batches_tracked->scalar_type() == ScalarType::Long,
                    "batchnorm: num_batches_tracked must be int64");
    const int64_t seen = ++*(int64_t*)num_batches_tracked->data_ptr();
    if (!momentum) share = 1.0 / (double)seen;
  }
  if (!running_mean || !running_var) return;
  const Values to_mean(running_mean), to_variance(running_var), from_mean(mean), from_m2(m2), n(count);
  const bool one_count = count.numel() == 1;
  for (int64_t c = 0, C = mean.numel(); c < C; c++) {
    const double degrees = n.get(one_count ? 0 : c) - 1, value = from_mean.get(c), variance = from_m2.get(c) / degrees;
    if (!(degrees > 0) || !to_mean.finite(value) || !to_variance.finite(variance)) continue;
    to_mean.set(c, (1 - share) * to_mean.get(c) + share * value);
    to_variance.set(c, (1 - share) * to_variance.get(c) + share * variance);
  }
}

// ---- settings; an empty name is the best instruction set, a negative size leaves it as it is
void configure(std::string isa, int64_t huge_page_bytes, int64_t stream_bytes) {
  const Isa* found = find_isa(isa.c_str());
  STD_TORCH_CHECK(found, "batchnorm: this machine or this build has no instruction set ", isa);
  settings.isa = found;
  if (huge_page_bytes >= 0) settings.huge_page_bytes = huge_page_bytes;
  if (stream_bytes >= 0) settings.stream_bytes = stream_bytes;
}
// the instruction set in use, then all that this machine has
std::string info() {
  std::string text = settings.isa.load()->name;
  int count;
  const Isa* all = instruction_sets(&count);
  for (int k = 0; k < count; k++)
    if (all[k].here) text += std::string(" ") + all[k].name;
  return text;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(batchnorm, m) {
  m.def("_cpu_configure(str isa, int huge_page_bytes, int stream_bytes) -> ()");
  m.def("_cpu_info() -> str");
}
STABLE_TORCH_LIBRARY_IMPL(batchnorm, CompositeExplicitAutograd, m) {
  m.impl("_cpu_configure", TORCH_BOX(&configure));
  m.impl("_cpu_info", TORCH_BOX(&info));
}
STABLE_TORCH_LIBRARY_IMPL(batchnorm, CPU, m) {
  m.impl("moments", TORCH_BOX(&moments));
  m.impl("normalise", TORCH_BOX(&normalise));
  m.impl("grad_reduce", TORCH_BOX(&grad_reduce));
  m.impl("grad_apply", TORCH_BOX(&grad_apply));
  m.impl("forward", TORCH_BOX(&forward));
  m.impl("evaluate", TORCH_BOX(&evaluate));
  m.impl("backward", TORCH_BOX(&backward));
  m.impl("update_", TORCH_BOX(&update_));
}
