// What the driver asks of the kernels. Plain data: this header is shared by files compiled for different machines.
//
//   N samples, C channels, L positions, G groups of samples with statistics in common
//   planes   element (n, c, l) lies at (n C + c) L + l: a row is one (sample, channel), all its elements have one parameter
//   lanes    element (n, c, l) lies at (n L + l) C + c: a row is one position, every element has its own parameter
//   vectors  (G, C) in the accumulation type: double for double, else float
//   bits     one bit an element, every row in whole bytes
#pragma once
#include <stdint.h>

enum DType { kFloat, kDouble, kBFloat16, kHalf };

struct Problem {
  const void *x, *dy, *residual;
  void *y, *dx, *dresidual;
  uint8_t* bits;
  const uint8_t* mask;                           // (N, L): nonzero = real; null: all real
  const void *mean, *scale, *shift, *p, *q, *r;  // (G, C); q and r null: the statistics do not depend on x
  const int64_t *index, *order;                  // group of a sample; samples sorted by group; null: as they come
  int64_t N, C, L, groups, block;
  double slope;
  int activation;
  bool lanes, streamed;  // streamed: write results past the caches

  int64_t group(int64_t n) const {
    if (groups == 1) return 0;
    if (index) return index[n];
    return n / block < groups ? n / block : groups - 1;
  }
  int64_t sample(int64_t j) const { return order ? order[j] : j; }
  int64_t elements() const { return N * C * L; }
};

// Part of a problem: samples j (in `order`), positions i, channels c. For sums all samples are of one group.
struct Tile { int64_t j0, j1, i0, i1, c0, c1; };

constexpr int64_t kPlaneChannels = 16;  // most channels in a tile of sums, planes
constexpr int64_t kLaneChannels = 512;  // the same, lanes

// One table per instruction set and dtype.
struct Kernels {
  // out[c] = x at the first of k places (sample, position), plus the mean distance of the others from it
  void (*guess)(const Problem&, const int64_t (*places)[2], int64_t k, int64_t c0, int64_t c1, void* out);
  // adds to sums[2][c1 - c0]: d and d d with d = x - mean, or g and g d with g = dy act'
  void (*moments)(const Problem&, const Tile&, double* sums);
  void (*gradient)(const Problem&, const Tile&, double* sums);
  void (*normalise)(const Problem&, const Tile&);
  void (*apply)(const Problem&, const Tile&);
};

typedef const Kernels* KernelTable(DType);
extern "C" KernelTable batchnorm_kernels_baseline, batchnorm_kernels_avx2, batchnorm_kernels_avx512,
    batchnorm_kernels_avx512_bf16;
