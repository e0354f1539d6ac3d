// A BN + ReLU training step by oneDNN's own primitive, behind five C functions for ctypes.
//
// Contiguous problems run in the blocked layout nChw16c, channels-last ones in nhwc: its plain nchw code is far slower.
// Memory is allocated once, and no running statistics are updated: a bound for others, not a rival.
#include <oneapi/dnnl/dnnl.hpp>
#include <unordered_map>

using namespace dnnl;
using Format = memory::format_tag;
using Arguments = std::unordered_map<int, memory>;

namespace {

struct Step {
  engine cpu{engine::kind::cpu, 0};
  stream queue{cpu};
  memory::dims dims;
  memory x, y, dy, dx, mean, var, scale, shift, dscale, dshift, bits;
  primitive forward, backward;
  Arguments forward_arguments, backward_arguments;

  Step(memory::dims sizes, bool channels_last) : dims(sizes) {
    const auto type = memory::data_type::f32;
    const memory::desc data(dims, type, channels_last ? Format::nhwc : Format::nChw16c), vector({dims[1]}, type, Format::x);
    const auto flags = normalization_flags::use_scale | normalization_flags::use_shift | normalization_flags::fuse_norm_relu;
    const batch_normalization_forward::primitive_desc f(cpu, prop_kind::forward_training, data, data, 1e-5f, flags);
    const batch_normalization_backward::primitive_desc b(cpu, prop_kind::backward, data, data, data, 1e-5f, flags, f);
    for (memory* m : {&x, &y, &dy, &dx}) *m = memory(data, cpu);
    for (memory* m : {&mean, &var, &scale, &shift, &dscale, &dshift}) *m = memory(vector, cpu);
    bits = memory(f.workspace_desc(), cpu);
    forward = batch_normalization_forward(f);
    backward = batch_normalization_backward(b);
    forward_arguments = {{DNNL_ARG_SRC, x},     {DNNL_ARG_DST, y},     {DNNL_ARG_MEAN, mean},     {DNNL_ARG_VARIANCE, var},
                         {DNNL_ARG_SCALE, scale}, {DNNL_ARG_SHIFT, shift}, {DNNL_ARG_WORKSPACE, bits}};
    backward_arguments = {{DNNL_ARG_SRC, x},           {DNNL_ARG_DIFF_DST, dy},       {DNNL_ARG_DIFF_SRC, dx},
                          {DNNL_ARG_MEAN, mean},       {DNNL_ARG_VARIANCE, var},      {DNNL_ARG_SCALE, scale},
                          {DNNL_ARG_DIFF_SCALE, dscale}, {DNNL_ARG_DIFF_SHIFT, dshift}, {DNNL_ARG_WORKSPACE, bits}};
  }

  void run() {
    forward.execute(queue, forward_arguments);
    backward.execute(queue, backward_arguments);
    queue.wait();
  }

  // Between a plain array of the caller's and memory of ours: nchw, or a vector.
  memory plain(const memory& like, const void* values) {
    const bool vector = like.get_desc().get_ndims() == 1;
    const memory::desc layout(vector ? memory::dims{dims[1]} : dims, memory::data_type::f32, vector ? Format::x : Format::nchw);
    return memory(layout, cpu, const_cast<void*>(values));
  }
  void read(memory to, const void* values) {
    memory from = plain(to, values);
    reorder(from, to).execute(queue, from, to);
    queue.wait();
  }
  void write(memory from, void* values) {
    memory to = plain(from, values);
    reorder(from, to).execute(queue, from, to);
    queue.wait();
  }
};

}  // namespace

extern "C" {
Step* step_new(int64_t n, int64_t c, int64_t h, int64_t w, int channels_last) {
  try {
    return new Step({n, c, h, w}, channels_last != 0);
  } catch (const error&) {
    return nullptr;
  }
}
void step_delete(Step* s) { delete s; }
void step_set(Step* s, const float* x, const float* dy, const float* scale, const float* shift) {
  s->read(s->x, x), s->read(s->dy, dy), s->read(s->scale, scale), s->read(s->shift, shift);
}
void step_run(Step* s) { s->run(); }
void step_get(Step* s, float* y, float* dx, float* dscale, float* dshift) {
  s->write(s->y, y), s->write(s->dx, dx), s->write(s->dscale, dscale), s->write(s->dshift, dshift);
}
}
