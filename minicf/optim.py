"""Update weights: explicit steps, PyTorch's equations, numbered.

Notation
--------
w, g, t     a weight, the derivative of the loss by it, the step counted from 1
lr, lambda  the learning rate, the weight decay
n_r, B      examples of the batch that read row r of a table; examples in the batch

Weight decay is a named choice, because frameworks and papers mean different things by it:

=================  ================================================================================================
``"l2"``           (U1) g <- g + lambda w: the gradient of lambda/2 |w|^2, on every row at every step
                   (torch.optim.SGD and Adam; Keras' ``l2(a)`` on a table is lambda = 2 a on that table)
``"per_rating"``   (U2) g <- g + lambda n_r / B w: the gradient of lambda/2 |w_r|^2 averaged over the batch's examples,
                   so that a row is decayed once for each example that reads it (LIBMF, Surprise); dense layers
                   are read by every example, n_r = B
``"decoupled"``    (U3) w <- (1 - lr lambda) w before the step, past the optimizer's normalization (torch.optim.AdamW)
=================  ================================================================================================

Untouched rows, which no example of the batch reads: with ``sparse=False`` every row of a table moves at every step, as
in a dense framework, so momentum goes on carrying untouched rows and l2 goes on shrinking them. With ``sparse=True``
untouched rows and their state stay as they are. These are different optimizers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from minicf.arguments import check_bool, check_choice, check_decay, check_number
from minicf.models import Weights
from minicf.ops import Array, namespace
from minicf.registry import register

DECAYS = ("l2", "decoupled", "per_rating")


class Optimizer:
    """The contract of an optimizer; subclasses add `slots` and `update`.

    To write your own, subclass it as a frozen dataclass and register it. Weight decay and the choice of rows come
    with it, as arguments where the class has these fields; every backend runs it, composed of array operations where
    there is no compiled kernel for it::

        @minicf.register
        @dataclass(frozen=True)
        class SignSGD(minicf.Optimizer):
            "Bernstein et al. 2018, with momentum: m <- mu m + (1 - mu) g, w <- w - lr sign(m)."

            lr: float = 0.01
            momentum: float = 0.9
            weight_decay: float = 0.0
            decay: str = "l2"
            sparse: bool = False

            def slots(self):
                return ("mean",)

            def update(self, w, g, slots, t, lr, table):
                slots["mean"] = m = self.momentum * slots["mean"] + (1.0 - self.momentum) * g
                return w - lr * minicf.ops.namespace(m).sign(m)
    """

    lr: float
    weight_decay: float | Mapping[str, float] = 0.0
    decay: str = "l2"
    sparse: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "lr", check_number("lr", self.lr, 0.0))
        object.__setattr__(self, "sparse", check_bool("sparse", self.sparse))
        object.__setattr__(self, "weight_decay", check_decay("weight_decay", self.weight_decay))
        check_choice("decay", self.decay, DECAYS)

    def __hash__(self) -> int:
        return hash(repr(self))

    def decay_of(self, name: str) -> float:
        """Return lambda of one weight."""
        return self.weight_decay.get(name, 0.0) if isinstance(self.weight_decay, Mapping) else self.weight_decay

    def slots(self) -> tuple[str, ...]:
        """Return the names of the arrays that the optimizer keeps for each weight."""
        return ()

    def update(self, w: Array, g: Array, slots: Weights, t: int, lr: float, table: bool) -> Array:
        """Return new weights, and put the new state into `slots`.

        Parameters
        ----------
        w, g : array
            A weight, or some rows of it, and its gradient; weight decay is in them already. Not to be changed.
        slots : dict of arrays
            The state of these rows by slot; assign new arrays to change it.
        t, lr : int, float
            The step, from 1, and its learning rate.
        table : bool
            Whether the weight is a table of rows, or dense.
        """
        raise NotImplementedError

    def init_state(self, weights: Weights) -> Weights:
        """Make zeroed state: an array ``slot.weight`` for each slot and weight; the step is kept beside it."""
        return {f"{slot}.{name}": namespace(w).zeros_like(w) for slot in self.slots() for name, w in weights.items()}

    def step(
        self,
        w: Weights,
        grads: Weights,
        state: Weights,
        t: int,
        lr: float | Mapping[str, float],
        counts: Weights,
        batch: int,
    ) -> None:
        """Move every weight once, in place.

        Parameters
        ----------
        w, grads, state : dict of arrays
            Weights, their gradients, and what `init_state` made.
        t : int
            The step, from 1.
        lr : float or dict of float by weight name
            Its learning rate.
        counts : dict of arrays
            For each table, how many examples of the batch read each row (n_r); dense layers are absent.
        batch : int
            B.
        """
        for name in w:
            n = counts.get(name)
            # The whole array, or the rows that the batch reads.
            at: Any = slice(None) if n is None or not self.sparse else n.nonzero()[0]
            rate = lr[name] if isinstance(lr, Mapping) else lr
            old, g = self._decayed(name, at, w[name], grads[name], rate, n, batch)
            slots = {slot: state[f"{slot}.{name}"][at] for slot in self.slots()}
            w[name][at] = self.update(old, g, slots, t, rate, n is not None)
            for slot, value in slots.items():
                state[f"{slot}.{name}"][at] = value

    def _decayed(
        self, name: str, at: Any, w: Array, g: Array, lr: float, n: Array | None, batch: int
    ) -> tuple[Array, Array]:
        """(U1), (U2), (U3): the weight and the gradient that the step proper starts from."""
        decay = self.decay_of(name)
        w, g = w[at], g[at]
        if decay and self.decay == "l2":
            g = g + decay * w  # (U1)
        elif decay and self.decay == "per_rating":
            if n is None:
                g = g + decay * w  # (U2), n_r = B
            else:
                share = (n[at] / batch).astype(w.dtype)
                g = g + decay * share.reshape(-1, *[1] * (w.ndim - 1)) * w  # (U2)
        elif decay:
            w = w * (1.0 - lr * decay)  # (U3)
        return w, g


@register
@dataclass(frozen=True)
class SGD(Optimizer):
    """Stochastic gradient descent, with momentum.

    Parameters
    ----------
    lr : float
        The learning rate, unless a trainer's `lr` or schedule says otherwise.
    momentum : float
        mu in (U4), in [0, 1): the share of its last move that a weight goes on with.
    nesterov : bool
        Look one step of momentum ahead.
    weight_decay : float or dict of float by weight name
        lambda; weights that a dict leaves out are not decayed.
    decay : "l2", "decoupled" or "per_rating"
        See the table at the top of `minicf.optim`.
    sparse : bool
        Leave untouched rows as they are.

    Notes
    -----
    (U4) v <- mu v + g, the velocity, starting from v = 0, so that the first v is g.
    (U5) w <- w - lr v; with Nesterov's look-ahead w <- w - lr (g + mu v); without momentum w <- w - lr g.
    These are torch.optim.SGD's (dampening 0).
    """

    lr: float
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float | Mapping[str, float] = 0.0
    decay: str = "l2"
    sparse: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "momentum", check_number("momentum", self.momentum, 0.0, 1.0))
        object.__setattr__(self, "nesterov", check_bool("nesterov", self.nesterov))
        if self.nesterov and not self.momentum:
            raise ValueError(f"momentum is {self.momentum:g}; it must be above 0 with nesterov=True")

    __hash__ = Optimizer.__hash__

    def slots(self) -> tuple[str, ...]:
        return ("velocity",) if self.momentum else ()

    def update(self, w: Array, g: Array, slots: Weights, t: int, lr: float, table: bool) -> Array:
        if self.momentum:
            slots["velocity"] = v = self.momentum * slots["velocity"] + g  # (U4)
            g = g + self.momentum * v if self.nesterov else v
        return w - lr * g  # (U5)


@register
@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam (Kingma and Ba 2015), and AdamW with ``decay="decoupled"`` (Loshchilov and Hutter 2019).

    Parameters
    ----------
    lr : float
        The learning rate, unless a trainer's `lr` or schedule says otherwise.
    betas : (float, float)
        beta1 and beta2, in [0, 1): memories of the two moments, the means of g (U6) and of g^2 (U7).
    eps : float
        Added to the root of the second moment.
    weight_decay, decay, sparse
        As for `SGD`.
    amsgrad : bool
        Divide by the largest second moment so far (Reddi, Kale and Kumar 2018). It has no compiled kernel: every
        backend runs it composed of array operations.

    Notes
    -----
    The moments start from 0; the divisors in (U8) make up for that.
    (U6) m <- beta1 m + (1 - beta1) g.
    (U7) v <- beta2 v + (1 - beta2) g^2.
    (U8) w <- w - lr / (1 - beta1^t) * m / (sqrt(v / (1 - beta2^t)) + eps).
    These are torch.optim.Adam's. With ``sparse=True`` tables follow torch.optim.SparseAdam, which adds eps before the
    correction of v and not after it: (U9) eps <- eps / sqrt(1 - beta2^t) in (U8).
    (U10) amsgrad: u <- max(u, v), starting from 0, and u in the place of v in (U8); the paper corrects neither moment,
    torch.optim.Adam and this one both.
    """

    lr: float = 0.001
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float | Mapping[str, float] = 0.0
    decay: str = "l2"
    sparse: bool = False
    amsgrad: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "amsgrad", check_bool("amsgrad", self.amsgrad))
        try:
            beta1, beta2 = self.betas
        except (TypeError, ValueError):
            raise ValueError(f"betas is {self.betas!r}; it must be two numbers") from None
        betas = check_number("betas[0]", beta1, 0.0, 1.0), check_number("betas[1]", beta2, 0.0, 1.0)
        object.__setattr__(self, "betas", betas)
        # Above 0: a row without any gradient divides 0 by eps.
        object.__setattr__(self, "eps", check_number("eps", self.eps, 1e-30))

    __hash__ = Optimizer.__hash__

    def slots(self) -> tuple[str, ...]:
        return ("first", "second", *(["largest"] if self.amsgrad else []))

    def scalars(self, t: int, lr: float, table: bool) -> tuple[float, float, float]:
        """Return the numbers of step t in (U8) and (U9): lr / (1 - beta1^t), sqrt(1 - beta2^t) and eps."""
        # -expm1(t log beta) is 1 - beta^t without cancellation, for any t.
        correction1, correction2 = (-np.expm1(t * np.log(beta)) if beta else 1.0 for beta in self.betas)
        root = float(np.sqrt(correction2))
        return lr / float(correction1), root, self.eps / root if table and self.sparse else self.eps

    def update(self, w: Array, g: Array, slots: Weights, t: int, lr: float, table: bool) -> Array:
        beta1, beta2 = self.betas
        slots["first"] = m = beta1 * slots["first"] + (1.0 - beta1) * g  # (U6)
        slots["second"] = v = beta2 * slots["second"] + (1.0 - beta2) * g * g  # (U7)
        if self.amsgrad:
            slots["largest"] = v = namespace(v).maximum(slots["largest"], v)  # (U10)
        rate, root, eps = self.scalars(t, lr, table)
        return w - rate * m / (namespace(v).sqrt(v) / root + eps)  # (U8), (U9)


@register
@dataclass(frozen=True)
class AdaGrad(Optimizer):
    """AdaGrad (Duchi, Hazan and Singer 2011): steps shrink by all the gradient that an element has seen.

    Parameters
    ----------
    lr : float
        The learning rate, unless a trainer's `lr` or schedule says otherwise.
    eps : float
        Added to the root of the sum.
    initial : float
        What the sums start from.
    weight_decay, decay, sparse
        As for `SGD`.

    Notes
    -----
    (U11) s <- s + g^2, starting from `initial`.
    (U12) w <- w - lr g / (sqrt(s) + eps).
    These are torch.optim.Adagrad's; its ``lr_decay`` is a schedule's work here. With ``decay="l2"`` a row without an
    example moves by its decay alone, as there. It runs composed of array operations on every backend.
    """

    lr: float = 0.01
    eps: float = 1e-10
    initial: float = 0.0
    weight_decay: float | Mapping[str, float] = 0.0
    decay: str = "l2"
    sparse: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "eps", check_number("eps", self.eps, above=0.0))
        object.__setattr__(self, "initial", check_number("initial", self.initial, 0.0))

    __hash__ = Optimizer.__hash__

    def slots(self) -> tuple[str, ...]:
        return ("squares",)

    def init_state(self, weights: Weights) -> Weights:
        return {f"squares.{name}": namespace(w).zeros_like(w) + self.initial for name, w in weights.items()}

    def update(self, w: Array, g: Array, slots: Weights, t: int, lr: float, table: bool) -> Array:
        slots["squares"] = s = slots["squares"] + g * g  # (U11)
        return w - lr * g / (namespace(s).sqrt(s) + self.eps)  # (U12)


@register
@dataclass(frozen=True)
class RMSProp(Optimizer):
    """RMSProp (Hinton 2012, lecture 6e), also centered (Graves 2013) and with momentum.

    Parameters
    ----------
    lr : float
        The learning rate, unless a trainer's `lr` or schedule says otherwise.
    alpha : float
        In [0, 1): the memory of the means.
    eps : float
        Added to the root.
    momentum : float
        mu in (U16), in [0, 1).
    centered : bool
        Divide by the standard deviation of the gradient and not by its root mean square.
    weight_decay, decay, sparse
        As for `SGD`.

    Notes
    -----
    Means and velocity start from 0; nothing makes up for that, as Adam does.
    (U13) v <- alpha v + (1 - alpha) g^2.
    (U14) centered: m <- alpha m + (1 - alpha) g, and v - m^2 in the place of v in (U15). It is a variance, never below
    0 but by rounding, which is cut off.
    (U15) d = g / (sqrt(v) + eps); w <- w - lr d.
    (U16) with momentum: b <- mu b + d; w <- w - lr b.
    These are torch.optim.RMSprop's. It runs composed of array operations on every backend.
    """

    lr: float = 0.01
    alpha: float = 0.99
    eps: float = 1e-8
    momentum: float = 0.0
    centered: bool = False
    weight_decay: float | Mapping[str, float] = 0.0
    decay: str = "l2"
    sparse: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "alpha", check_number("alpha", self.alpha, 0.0, 1.0))
        object.__setattr__(self, "eps", check_number("eps", self.eps, above=0.0))
        object.__setattr__(self, "momentum", check_number("momentum", self.momentum, 0.0, 1.0))
        object.__setattr__(self, "centered", check_bool("centered", self.centered))

    __hash__ = Optimizer.__hash__

    def slots(self) -> tuple[str, ...]:
        return ("second", *(["first"] if self.centered else []), *(["velocity"] if self.momentum else []))

    def update(self, w: Array, g: Array, slots: Weights, t: int, lr: float, table: bool) -> Array:
        xp = namespace(g)
        slots["second"] = v = self.alpha * slots["second"] + (1.0 - self.alpha) * g * g  # (U13)
        if self.centered:
            slots["first"] = m = self.alpha * slots["first"] + (1.0 - self.alpha) * g
            v = xp.maximum(v - m * m, 0.0)  # (U14)
        d = g / (xp.sqrt(v) + self.eps)  # (U15)
        if self.momentum:
            slots["velocity"] = d = self.momentum * slots["velocity"] + d  # (U16)
        return w - lr * d
