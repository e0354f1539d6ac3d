// Which build of the kernels runs: the best that this machine has, or the one asked for.
#pragma once
#include <string.h>
#include <atomic>
#include <string>
#include "problem.h"

struct Isa {
  const char* name;
  KernelTable* table;
  bool here;
};
inline const Isa* instruction_sets(int* count) {  // from plain to best
#if defined(__x86_64__)
  __builtin_cpu_init();
  static const bool v4 = __builtin_cpu_supports("x86-64-v4");
  static const Isa all[] = {{"baseline", batchnorm_kernels_baseline, true},
                            {"avx2", batchnorm_kernels_avx2, !!__builtin_cpu_supports("x86-64-v3")},
                            {"avx512", batchnorm_kernels_avx512, v4},
                            {"avx512_bf16", batchnorm_kernels_avx512_bf16, v4 && __builtin_cpu_supports("avx512bf16")}};
#else
  static const Isa all[] = {{"baseline", batchnorm_kernels_baseline, true}};
#endif
  *count = sizeof all / sizeof all[0];
  return all;
}
// null where this machine has no such set; an empty name is the best there is
inline const Isa* find_isa(const char* name) {
  int count;
  const Isa *all = instruction_sets(&count), *found = nullptr;
  for (int k = 0; k < count; k++)
    if (all[k].here && (!*name || !strcmp(name, all[k].name))) found = &all[k];
  return found;
}
