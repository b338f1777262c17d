"""Only for `pytest tests/live`: lets a test look at the model in a running WebUI and break a training job on purpose.

Copy the folder ``tests/live/probe`` into the WebUI's ``extensions``; never on a machine that others can reach.
"""

import hashlib
import resource
import sys

import lora_eval_probe_tools as tools
import torch
from modules import script_callbacks, shared
from modules.call_queue import queue_lock

watching = []


def roots():
    """(name, module) of everything that the host's model is made of."""
    model = shared.sd_model
    original = getattr(model, "forge_objects_original", None)
    if original is None:
        return [("model", model)]
    return [
        ("unet", original.unet.model),
        ("clip", original.clip.cond_stage_model),
        ("vae", original.vae.first_stage_model),
    ]


def state():
    """Hashes of tensors, flags and random state, and what hangs on the modules."""
    tensors, flags, hooks, forwards, count = hashlib.sha256(), hashlib.sha256(), [], [], 0
    for root_name, root in roots():
        for name, module in root.named_modules():
            flags.update(f"{root_name}.{name} {module.training}".encode())
            tables = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
            hooks += [f"{name}.{table}.{len(getattr(module, table))}" for table in tables if getattr(module, table)]
            forwards += [name] if "forward" in module.__dict__ else []
        own = [*root.named_parameters(), *root.named_buffers()]
        for name, tensor in own:
            count += 1
            data = tensor.detach().cpu().contiguous()
            tensors.update(f"{root_name}.{name} {tensor.dtype} {tuple(tensor.shape)} {tensor.device}".encode())
            tensors.update(data.reshape(-1).view(torch.uint8).numpy().tobytes() if data.ndim else repr(data).encode())
            flags.update(f"{name} {tensor.requires_grad} {tensor.grad is None}".encode())
    return {
        "tensors": tensors.hexdigest(),
        "count": count,
        "flags": flags.hexdigest(),
        "hooks": hooks,
        "forwards": forwards,
        "random": hashlib.sha256(torch.get_rng_state().numpy().tobytes()).hexdigest(),
        "loras": [net.name for net in sys.modules["networks"].loaded_networks],
        "object": id(shared.sd_model),
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "rss_mb": int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 2**20,
        "preview": str(shared.opts.show_progress_type),
        "checkpoint": str(shared.opts.sd_model_checkpoint),
    }


def loan():
    """The class of the borrowed model."""
    from lora_eval.host.current import current_host

    module = sys.modules[type(current_host()).__module__]
    return getattr(module, "A1111Model", None) or module.ForgeModel


def watch(step):
    """The next training job is looked at in that step."""
    kind, looking = loan(), tools.StepWatch(lambda: [root for _, root in roots()], step)
    whole = kind.denoise if not watching else watching[0][1]
    kind.denoise = lambda self, *args: looking.denoise(lambda *given: whole(self, *given), *args)
    watching[:] = [(looking, whole)]


def seen():
    """What the watch saw; the watch is over."""
    looking, whole = watching.pop()
    loan().denoise = whole
    return looking.seen


def gradients():
    """How far gradients with checkpointing are from those without."""
    from lora_eval.host.current import current_host

    (plain, once), (checkpointed, twice) = (tools.gradients(current_host(), on) for on in (False, True))
    return {
        "parameters": len(plain),
        "apart": tools.apart(plain, checkpointed),
        "furthest": tools.furthest(plain, checkpointed),
        "runs": [once, twice],
    }


def break_at(stage, after):
    """The next training job raises in the borrowed model's ``stage`` after so many calls."""
    kind = loan()
    whole, left = getattr(kind, stage), [after]

    def broken(self, *args, **kwargs):
        left[0] -= 1
        if left[0] < 0:
            setattr(kind, stage, whole)
            raise RuntimeError(f"broken on purpose in {stage}")
        return whole(self, *args, **kwargs)

    setattr(kind, stage, broken)


def start(demo, app):
    @app.get("/lora-eval-probe/state")
    def get_state():
        with queue_lock:
            return state()

    @app.post("/lora-eval-probe/reload")
    def post_reload():
        shared.state.request_restart()
        return {}

    @app.get("/lora-eval-probe/memory")
    def get_memory():
        with queue_lock:
            return tools.parts([root for _, root in roots()])

    @app.post("/lora-eval-probe/watch/{step}")
    def post_watch(step: int):
        watch(step)
        return {}

    @app.get("/lora-eval-probe/seen")
    def get_seen():
        return seen()

    @app.get("/lora-eval-probe/gradients")
    def get_gradients():
        return gradients()

    @app.post("/lora-eval-probe/break/{stage}/{after}")
    def post_break(stage: str, after: int):
        break_at(stage, after)
        return {}


script_callbacks.on_app_started(start)
