"""A recipe: everything that a person chooses about a model, and nothing about the machine.

A recipe is whole: no field that changes a result has a default, so what a file does not say does
not happen. The sections follow the stages that read them, so that a changed learning rate reaches
the train stage's key and leaves the normalize stage's alone.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from pipeline_config.sections import Section

Share = Annotated[float, Field(gt=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Probability = Annotated[float, Field(ge=0, lt=1)]


class OfficialTest(Section):
    """The test rows are the ones that the data set calls so."""

    kind: Literal["official"]


class PooledTest(Section):
    """Train and test rows are pooled, shuffled and divided anew: for tutorials that do it."""

    kind: Literal["pooled"]
    share: Share
    seed: Seed


class NoValidation(Section):
    """Every training row is trained on; nothing can be chosen or calibrated."""

    kind: Literal["none"]


class LastRows(Section):
    """The last `rows` training rows are kept for validation."""

    kind: Literal["last"]
    rows: Annotated[int, Field(ge=1)]


class StratifiedShare(Section):
    """A share of the training rows, drawn class by class, is kept for validation."""

    kind: Literal["stratified"]
    share: Share
    seed: Seed


class StratifiedFold(Section):
    """The training rows are dealt class by class into `folds` parts, of which `fold` validates."""

    kind: Literal["fold"]
    fold: Annotated[int, Field(ge=0)]
    folds: Annotated[int, Field(ge=2, le=100)]
    seed: Seed

    @model_validator(mode="after")
    def _is_there(self) -> Self:
        if self.fold >= self.folds:
            raise ValueError("fold counts from 0 and must be below folds")
        return self


class Split(Section):
    """Which rows train, which validate and which test."""

    test: Annotated[OfficialTest | PooledTest, Field(discriminator="kind")]
    validation: Annotated[
        NoValidation | LastRows | StratifiedShare | StratifiedFold, Field(discriminator="kind")
    ]


class Model(Section):
    """The network between the normalized pixels and the logits.

    `hidden` are the widths of the hidden layers; `dropout` is the probability of zeroing a unit
    after each of them (a single number stands for all); `negative_slope` belongs to `leaky_relu`
    alone. `output` is what the last layer gives: logits, their log-softmax, or the activation
    applied once more. Initialisations: `torch` is PyTorch's own; `he_normal` is He 2015, eq. 10;
    `glorot_uniform` is Glorot and Bengio 2010, eq. 16, with zero biases in both;
    `inverse_size_normal` draws weights and biases alike from a normal distribution whose standard
    deviation is 1/(number of their elements).
    """

    hidden: Annotated[tuple[Annotated[int, Field(ge=1, le=65536)], ...], Field(max_length=100)]
    activation: Literal["relu", "leaky_relu", "tanh", "gelu"]
    negative_slope: Annotated[float, Field(ge=0, lt=1)]
    dropout: tuple[Probability, ...]
    batch_norm: bool
    initialization: Literal["torch", "he_normal", "glorot_uniform", "inverse_size_normal"]
    output: Literal["logits", "log_softmax", "activation"]

    @field_validator("dropout", mode="before")
    @classmethod
    def _one_for_each(cls, given: Any, known: ValidationInfo) -> Any:
        """A single number becomes one for each hidden layer."""
        if isinstance(given, list | tuple):
            return given
        return (given,) * len(known.data.get("hidden", ()))

    @model_validator(mode="after")
    def _as_many(self) -> Self:
        if len(self.dropout) != len(self.hidden):
            raise ValueError("dropout is one number, or one for each of the hidden layers")
        return self


class Optimizer(Section):
    """An optimiser and its numbers, in the units of its paper.

    `momentum` and `nesterov` belong to `sgd`; `betas` and `epsilon` to the Adam family.
    `weight_decay` is decoupled for `adamw` (Loshchilov and Hutter 2019) and L2 for the others, and
    spares biases and batch norm.
    """

    name: Literal["sgd", "adam", "adamw", "adamax"]
    learning_rate: Annotated[float, Field(gt=0, le=10)]
    weight_decay: Annotated[float, Field(ge=0, le=10)]
    momentum: Annotated[float, Field(ge=0, lt=1)]
    nesterov: bool
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]]
    epsilon: Annotated[float, Field(gt=0, le=1)]


class Schedule(Section):
    """How the learning rate moves: `warmup` is the share of all steps that it rises for.

    `one_cycle` rises linearly from a tenth of the learning rate and falls along a cosine to a
    thousandth of it (Smith and Topin 2018); `cosine` is the same fall without the rise's tenth.
    """

    name: Literal["constant", "cosine", "one_cycle"]
    warmup: Annotated[float, Field(ge=0, lt=1)]


class Augmentation(Section):
    """How far a training image may be moved, each time that it is shown anew.

    Shift, rotation, scale and shear are drawn evenly from ± these; elastic fields (Simard et al.
    2003) are noise smoothed by a Gaussian of `elastic_sigma_px`, and `elastic_px` is the root mean
    square of their displacement along each axis. Validation and test rows are never moved.
    """

    shift_px: Annotated[float, Field(ge=0, le=100)]
    rotation_deg: Annotated[float, Field(ge=0, le=180)]
    scale: Annotated[float, Field(ge=0, lt=1)]
    shear: Annotated[float, Field(ge=0, lt=1)]
    elastic_px: Annotated[float, Field(ge=0, le=100)]
    elastic_sigma_px: Annotated[float, Field(gt=0, le=100)]


class Training(Section):
    """How the model learns: engine, loss, optimiser, schedule, batches and the seed of it all.

    `ema` is the decay a step of an exponential moving average of the weights, which then is the
    model; 0 takes the weights as they are. `patience` ends the training after that many epochs
    without a lower validation loss and takes the weights of the best one; 0 trains all epochs.
    `keep_epochs` keeps the weights after each epoch, so that evaluate can draw test curves.
    """

    engine: Literal["torch", "numpy"]
    loss: Literal["cross_entropy", "nll", "mse"]
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    optimizer: Optimizer
    schedule: Schedule
    batch_size: Annotated[int, Field(ge=1, le=65536)]
    epochs: Annotated[int, Field(ge=1, le=10_000)]
    shuffle: bool
    augmentation: Augmentation | None
    ema: Annotated[float, Field(ge=0, lt=1)]
    patience: Annotated[int, Field(ge=0)]
    keep_epochs: bool
    seed: Seed

    @property
    def gives_logits(self) -> bool:
        """Whether the outputs that it trains are logits, whose softmax means something."""
        return self.loss != "mse"


class Expectation(Section):
    """What a run of this recipe gave: shown by `idxflow recipes`, read by no stage."""

    dataset: str
    accuracy: Annotated[float, Field(ge=0, le=1)]
    seconds: Annotated[float, Field(gt=0)]


class Recipe(Section):
    """A whole model in one file; `competes` says whether it may become champion.

    `floors` are the least accuracies on the test split, by data set, with which it may.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
    description: str
    expected: Expectation | None = None
    competes: bool
    floors: dict[str, Annotated[float, Field(ge=0, le=1)]] = Field(default_factory=dict)
    split: Split
    scaling: Literal["none", "unit", "standard"]
    model: Model
    training: Training

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        """Refuse choices that contradict each other, before anything is trained."""
        training = self.training
        if (training.loss == "nll") != (self.model.output == "log_softmax"):
            raise ValueError("the loss nll and the output log_softmax belong together")
        if self.model.output == "activation" and training.gives_logits:
            raise ValueError("the output activation gives no logits and needs the loss mse")
        if training.label_smoothing and training.loss != "cross_entropy":
            raise ValueError("label_smoothing needs the loss cross_entropy")
        if self.model.batch_norm and training.batch_size == 1:
            raise ValueError("batch_norm needs a batch_size of at least 2, for a variance")
        if training.optimizer.nesterov and not training.optimizer.momentum:
            raise ValueError("nesterov needs a momentum")
        if training.patience and isinstance(self.split.validation, NoValidation):
            raise ValueError("patience needs validation rows: split.validation of kind last")
        return self
