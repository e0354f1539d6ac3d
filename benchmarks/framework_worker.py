"""One framework in a process of its own: answers requests, one line of JSON each, about a BN + ReLU training step.

Started by `frameworks.py` with the framework's name and a number of threads; imports nothing but that framework and
numpy. A step is the forward with an update of running statistics and the gradients of x, scale and shift, for a given
gradient of the output.
"""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np

from benchmarks.onednn import run_onednn

Step = Callable[[], list[np.ndarray]]
EPS, MOMENTUM = 1e-5, 0.1


def run_torch(kind: str) -> Callable[[dict, str], tuple[Callable[[], object], Step]]:
    import torch

    from batchnorm.bench.contenders import LAYOUTS, Inputs, Problem, contender
    from batchnorm.bench.contenders import _callable as callable_of
    from batchnorm.bench.contenders import _layer as layer_of

    torch.set_num_threads(int(sys.argv[2]))

    def build(arrays: dict, layout: str) -> tuple[Callable[[], object], Step]:
        formats = dict(zip(LAYOUTS, (torch.contiguous_format, torch.channels_last), strict=True))
        x, dy = (torch.from_numpy(arrays[n]).contiguous(memory_format=formats[layout]) for n in ("x", "dy"))
        inputs = Inputs(
            x.requires_grad_(), None, dy, torch.from_numpy(arrays["scale"]), torch.from_numpy(arrays["shift"])
        )
        problem = Problem(tuple(x.shape), "relu", False, layout)
        torch._dynamo.reset()
        layer = layer_of(kind, problem, inputs)
        one = contender(kind, callable_of(kind, layer, problem), layer, problem, inputs)

        def step() -> object:
            y = one.forward()
            return y, one.backward(y)

        def results() -> list[np.ndarray]:
            y, gradients = step()
            return [t.detach().contiguous().numpy() for t in (y, *gradients)]

        return step, results

    return build


def run_jax(kind: str) -> Callable[[dict, str], tuple[Callable[[], object], Step]]:
    import jax
    import jax.numpy as jnp

    def build(arrays: dict, layout: str) -> tuple[Callable[[], object], Step]:
        last = layout == "channels_last"
        axes, view = ((0, 1, 2), (1, 1, 1, -1)) if last else ((0, 2, 3), (1, -1, 1, 1))
        order = (0, 2, 3, 1) if last else (0, 1, 2, 3)
        x, dy = (jnp.asarray(np.ascontiguousarray(arrays[n].transpose(order))) for n in ("x", "dy"))
        scale, shift = jnp.asarray(arrays["scale"]), jnp.asarray(arrays["shift"])
        count = x.size // scale.size
        state = [jnp.zeros_like(scale), jnp.ones_like(scale)]

        def by_hand(x, dy, scale, shift, mean, var):
            batch_mean = x.mean(axes)
            centred = x - batch_mean.reshape(view)
            batch_var = (centred * centred).mean(axes)
            rstd = jax.lax.rsqrt(batch_var + EPS)
            y = jax.nn.relu(centred * (rstd * scale).reshape(view) + shift.reshape(view))
            # Without the barrier XLA may merge forward and backward, which no network allows.
            y, dy = jax.lax.optimization_barrier((y, dy))
            g = jnp.where(y > 0, dy, 0)
            normalised = (x - batch_mean.reshape(view)) * rstd.reshape(view)
            dshift, dscale = g.sum(axes), (g * normalised).sum(axes)
            dx = g - (dshift / count).reshape(view) - normalised * (dscale / count).reshape(view)
            dx = dx * (rstd * scale).reshape(view)
            unbiased = batch_var * (count / (count - 1))
            new = [old + MOMENTUM * (found - old) for old, found in ((mean, batch_mean), (var, unbiased))]
            return (y, dx, dscale, dshift), new

        def by_flax(x, dy, scale, shift, mean, var):
            from flax import linen

            layer = linen.BatchNorm(
                use_running_average=False, momentum=1 - MOMENTUM, epsilon=EPS, axis=-1 if last else 1
            )

            def forward(x, scale, shift):
                variables = {
                    "params": {"scale": scale, "bias": shift},
                    "batch_stats": {"mean": mean, "var": var},
                }
                y, updates = layer.apply(variables, x, mutable=["batch_stats"])
                return jax.nn.relu(y), updates["batch_stats"]

            y, pullback, stats = jax.vjp(forward, x, scale, shift, has_aux=True)
            y, dy = jax.lax.optimization_barrier((y, dy))
            return (y, *pullback(dy)), [stats["mean"], stats["var"]]

        run = jax.jit({"JAX": by_hand, "flax": by_flax}[kind], donate_argnums=(4, 5))

        def step() -> object:
            results, new = run(x, dy, scale, shift, *state)
            jax.block_until_ready((results, new))
            state[:] = new
            return results

        def results() -> list[np.ndarray]:
            back = np.argsort(order)
            return [np.asarray(a).transpose(back) if a.ndim == 4 else np.asarray(a) for a in step()]

        return step, results

    return build


def run_tensorflow(kind: str) -> Callable[[dict, str], tuple[Callable[[], object], Step]]:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(int(sys.argv[2]))
    tf.config.threading.set_inter_op_parallelism_threads(1)

    def build(arrays: dict, layout: str) -> tuple[Callable[[], object], Step]:
        last = layout == "channels_last"
        order = (0, 2, 3, 1) if last else (0, 1, 2, 3)
        x, dy = (tf.constant(np.ascontiguousarray(arrays[n].transpose(order))) for n in ("x", "dy"))
        scale, shift = tf.Variable(arrays["scale"]), tf.Variable(arrays["shift"])
        mean, var = tf.Variable(np.zeros_like(arrays["scale"])), tf.Variable(np.ones_like(arrays["scale"]))

        @tf.function
        def run(x, dy):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y, batch_mean, batch_var = tf.compat.v1.nn.fused_batch_norm(
                    x,
                    tf.convert_to_tensor(scale),
                    tf.convert_to_tensor(shift),
                    epsilon=EPS,
                    data_format="NHWC" if last else "NCHW",
                )
                y = tf.nn.relu(y)
            gradients = tape.gradient(y, (x, scale, shift), output_gradients=dy)
            mean.assign_add(MOMENTUM * (batch_mean - mean))
            var.assign_add(MOMENTUM * (batch_var - var))
            return (y, *gradients)

        def step() -> object:
            found = run(x, dy)
            # reading one value waits for all of them
            found[1][0, 0, 0, 0].numpy()
            return found

        def results() -> list[np.ndarray]:
            back = np.argsort(order)
            return [a.numpy().transpose(back) if len(a.shape) == 4 else a.numpy() for a in run(x, dy)]

        return step, results

    return build


FRAMEWORKS = {
    "torch": run_torch,
    "torch again": run_torch,
    "batchnorm": run_torch,
    "torch.compile": run_torch,
    "JAX": run_jax,
    "flax": run_jax,
    "TensorFlow": run_tensorflow,
    "oneDNN": run_onednn,
}


def block(step: Callable[[], object], seconds: float) -> float:
    """The median time of a step, of at least five and of about `seconds` altogether."""
    times: list[float] = []
    while len(times) < 5 or sum(times) < seconds:
        start = time.perf_counter()
        found = step()
        del found
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    name = sys.argv[1]
    # The answers go where stdout was; what a framework prints goes to stderr.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        build = FRAMEWORKS[name](name)
    except ImportError as error:
        answers.write(json.dumps({"missing": str(error)}) + "\n")
        return
    answers.write(json.dumps({"ready": name}) + "\n")
    answers.flush()
    step: Callable[[], object] | None = None
    for line in sys.stdin:
        request = json.loads(line)
        if "inputs" in request:
            step, results = build(dict(np.load(request["inputs"])), request["layout"])
            np.savez(request["outputs"], *results())
            answer: dict[str, object] = {"done": True}
        else:
            answer = {"seconds": block(step, request["seconds"])}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
