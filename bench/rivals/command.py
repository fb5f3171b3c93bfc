"""A program from a cold process: what a user waits for at the command line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.rivals import Absent, Contender, Turn

FIRST_EPOCH = {
    "minicf": """
import minicf
train, valid = minicf.load_movielens().split()
trainer = minicf.Trainer(minicf.DotBias(50), minicf.Adam(0.001), batch_size=64)
trainer.fit(train, epochs=1, progress=False)
print(trainer.history[-1]["train_mse"])
""",
    "PyTorch": """
import numpy as np, torch, minicf.datasets
train, valid = minicf.datasets.load_movielens().split()
user, item, rating = (torch.as_tensor(x.copy()) for x in (train.user, train.item, train.rating))
table = torch.nn.Embedding
tables = [table(train.n_users, 50), table(train.n_items, 50), table(train.n_users, 1), table(train.n_items, 1)]
for one in tables:
    torch.nn.init.uniform_(one.weight, -0.01, 0.01)
p, q, b, c = tables
optim = torch.optim.Adam([one.weight for one in tables], 0.001, fused=True)
total = 0.0
for rows in torch.randperm(len(user)).split(64):
    u, i = user[rows], item[rows]
    y = (p(u) * q(i)).sum(1) + b(u)[:, 0] + c(i)[:, 0]
    loss = torch.nn.functional.mse_loss(y, rating[rows])
    optim.zero_grad()
    loss.backward()
    optim.step()
    total += loss.item() * len(rows)
print(total / len(user))
""",
    "JAX": """
import numpy as np, minicf.datasets, jax, jax.numpy as jnp
train, valid = minicf.datasets.load_movielens().split()
random = np.random.default_rng(0)
sizes = {"p": (train.n_users, 50), "q": (train.n_items, 50), "b": (train.n_users,), "c": (train.n_items,)}
w = {k: jnp.asarray(random.uniform(-0.01, 0.01, s), jnp.float32) for k, s in sizes.items()}
m, v = ({k: jnp.zeros_like(x) for k, x in w.items()} for _ in range(2))
rows = random.permutation(len(train))[: len(train) // 64 * 64].reshape(-1, 64)
def step(carry, x):
    (w, m, v, t), (u, i, r) = carry, x
    def loss(w):
        return jnp.square((w["p"][u] * w["q"][i]).sum(1) + w["b"][u] + w["c"][i] - r).mean()
    error, g = jax.value_and_grad(loss)(w)
    t = t + 1
    m = {k: 0.9 * m[k] + 0.1 * g[k] for k in w}
    v = {k: 0.999 * v[k] + 0.001 * g[k] ** 2 for k in w}
    def moved(k):
        return w[k] - 0.001 / (1 - 0.9**t) * m[k] / (jnp.sqrt(v[k] / (1 - 0.999**t)) + 1e-8)
    return ({k: moved(k) for k in w}, m, v, t), error
epoch = jax.jit(lambda carry, x: jax.lax.scan(step, carry, x))
columns = tuple(x[rows] for x in (train.user, train.item, train.rating))
carry, errors = epoch((w, m, v, jnp.zeros((), jnp.int32)), columns)
print(float(errors.mean()))
""",
    "Keras": """
import os
os.environ["KERAS_BACKEND"] = "jax"
import keras, minicf.datasets
train, valid = minicf.datasets.load_movielens().split()
user, item = keras.Input((1,), dtype="int32"), keras.Input((1,), dtype="int32")
near0 = keras.initializers.RandomUniform(-0.01, 0.01)
def table(rows, width, index):
    return keras.layers.Reshape((width,))(keras.layers.Embedding(rows, width, near0)(index))
U, I = train.n_users, train.n_items
dot = keras.layers.Dot(1)([table(U, 50, user), table(I, 50, item)])
model = keras.Model([user, item], keras.layers.Add()([dot, table(U, 1, user), table(I, 1, item)]))
model.compile(keras.optimizers.Adam(0.001, epsilon=1e-8), "mse")
x = [train.user[:, None].copy(), train.item[:, None].copy()]
print(model.fit(x, train.rating.copy(), batch_size=64, epochs=1, verbose=0).history["loss"][0])
""",
}
"""An epoch of DotBias, K = 50, Adam, batch 64, as a user of each engine writes it. Initial
weights and order are their own: the error of the first epoch is compared loosely."""

IMPORTS = {"minicf": "minicf", "PyTorch": "torch", "JAX": "jax, jax.numpy", "Keras": "keras"}


class Command(Contender):
    """One run of a program a turn, from the start of the process to its end."""

    packages = ()
    program_of_its_own = True

    def prepare(self) -> None:
        options = self.task.options
        self.env = os.environ | {"KERAS_BACKEND": "jax", "PYTHONPATH": os.getcwd()}
        self.folder: Path | None = None
        self.cold = bool(options.get("cold"))
        if "numba_cache" in options:
            self.env["NUMBA_CACHE_DIR"] = str(options["numba_cache"])
        engine = options["engine"]
        if options["what"] == "import":
            self.arguments = [sys.executable, "-c", f"import {IMPORTS[engine]}"]
        elif options["what"] == "epoch":
            self.arguments = [sys.executable, "-c", FIRST_EPOCH[engine]]
        else:
            self.out = tempfile.mkdtemp()
            script = Path("examples") / "bias.py"
            if not script.exists():
                raise Absent(f"there is no {script} in this folder")
            self.arguments = [sys.executable, str(script), "--out", self.out]
            if options.get("quick"):
                self.arguments += ["--epochs", "1"]

    def _run(self) -> str:
        done = subprocess.run(self.arguments, env=self.env, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            if "ModuleNotFoundError" in last:
                raise Absent(last)
            raise RuntimeError(last)
        return done.stdout

    def check(self) -> dict[str, float]:
        """Also fills the caches that a warm run finds."""
        said = self._run().split()
        if self.task.options["what"] == "epoch":
            return {"mse": float(said[-1])}
        if self.task.options["what"] == "bias":
            return {"mse": float(said[said.index("Validation:") + 2].rstrip(","))}
        return {}

    def turn(self) -> Turn:
        if self.cold:
            folder = tempfile.mkdtemp()
            self.env["NUMBA_CACHE_DIR"] = folder
        begin = time.perf_counter()
        self._run()
        seconds = time.perf_counter() - begin
        if self.cold:
            shutil.rmtree(folder)
        return Turn(seconds, 1)
