"""A recipe: everything that a person chooses about a model, and nothing about the machine.

No field that changes a result has a default: a recipe's file has all of them. The sections follow
the stages that read them, so that a new learning rate changes only the keys from train on.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from pipeline_config.sections import Section

Share = Annotated[float, Field(gt=0, lt=1)]
ShareOrZero = Annotated[float, Field(ge=0, lt=1)]
Pixels = Annotated[float, Field(ge=0, le=100)]
Accuracy = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Count = Annotated[int, Field(ge=1, le=65536)]


class OfficialTest(Section):
    """The test rows are the data set's own."""

    kind: Literal["official"]


class PooledTest(Section):
    """Training and test rows are pooled, shuffled and divided, as some tutorials do."""

    kind: Literal["pooled"]
    share: Share
    seed: Seed


class NoValidation(Section):
    """There are no validation rows, so nothing can be chosen or calibrated."""

    kind: Literal["none"]


class LastRows(Section):
    """The last `rows` training rows are the validation rows."""

    kind: Literal["last"]
    rows: Annotated[int, Field(ge=1)]


class StratifiedShare(Section):
    """The validation rows are a share of the training rows, drawn class by class."""

    kind: Literal["stratified"]
    share: Share
    seed: Seed


class StratifiedFold(Section):
    """The training rows are divided class by class into `folds` parts; part `fold` validates."""

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
    """The division of the rows into training, validation and test rows."""

    test: Annotated[OfficialTest | PooledTest, Field(discriminator="kind")]
    validation: Annotated[
        NoValidation | LastRows | StratifiedShare | StratifiedFold, Field(discriminator="kind")
    ]


class Model(Section):
    """The network between the normalized pixels and the logits.

    `hidden` are the widths of the hidden layers; `dropout` is the probability of zeroing a unit
    after each of them (a single number applies to all); `negative_slope` is for `leaky_relu`.
    `output` of the last layer: logits, their log-softmax, or the activation applied to them.
    Initialisations: `torch` is PyTorch's own; `he_normal` is He 2015, eq. 10; `glorot_uniform` is
    Glorot and Bengio 2010, eq. 16, both with zero biases; `inverse_size_normal` draws weights and
    biases from a normal distribution with standard deviation 1/(number of their elements).
    """

    hidden: Annotated[tuple[Count, ...], Field(max_length=100)]
    activation: Literal["relu", "leaky_relu", "tanh", "gelu"]
    negative_slope: ShareOrZero
    dropout: tuple[ShareOrZero, ...]
    batch_norm: bool
    initialization: Literal["torch", "he_normal", "glorot_uniform", "inverse_size_normal"]
    output: Literal["logits", "log_softmax", "activation"]

    @field_validator("dropout", mode="before")
    @classmethod
    def _one_for_each(cls, given: Any, known: ValidationInfo) -> Any:
        is_one = not isinstance(given, list | tuple)
        return (given,) * len(known.data.get("hidden", ())) if is_one else given

    @model_validator(mode="after")
    def _as_many(self) -> Self:
        # Of the section, since an override of `hidden` may be the cause.
        if len(self.dropout) != len(self.hidden):
            raise ValueError("dropout is one number, or one for each of the hidden layers")
        return self


class Optimizer(Section):
    """An optimiser and its numbers, in the units of its paper.

    `momentum` and `nesterov` are for `sgd`, `betas` and `epsilon` for the Adam family.
    `weight_decay` is decoupled for `adamw` (Loshchilov and Hutter 2019) and L2 for the others. It
    does not apply to biases and batch norm.
    """

    name: Literal["sgd", "adam", "adamw", "adamax"]
    learning_rate: Annotated[float, Field(gt=0, le=10)]
    weight_decay: Annotated[float, Field(ge=0, le=10)]
    momentum: ShareOrZero
    nesterov: bool
    betas: tuple[ShareOrZero, ShareOrZero]
    epsilon: Annotated[float, Field(gt=0, le=1)]


class Schedule(Section):
    """How the learning rate changes. It rises for `warmup`, a share of all steps.

    `one_cycle` rises linearly from a tenth of the learning rate and falls along a cosine to a
    thousandth of it (Smith and Topin 2018); `cosine` rises from 0 and falls to 0.
    """

    name: Literal["constant", "cosine", "one_cycle"]
    warmup: ShareOrZero


class Augmentation(Section):
    """Random changes of a training image, drawn again each time that it is used.

    Shift, rotation, scale and shear are uniform between ± these. Elastic fields (Simard et al.
    2003) are noise smoothed by a Gaussian of `elastic_sigma_px`; `elastic_px` is the root mean
    square of their displacement along each axis.
    """

    shift_px: Pixels
    rotation_deg: Annotated[float, Field(ge=0, le=180)]
    scale: ShareOrZero
    shear: ShareOrZero
    elastic_px: Pixels
    elastic_sigma_px: Annotated[float, Field(gt=0, le=100)]


class Training(Section):
    """The training of a model.

    `ema` is the decay for each step of an exponential moving average of the weights, which is then
    the model; 0 means no average. `patience` ends the training after that many epochs without a
    lower validation loss, and takes the weights of the best epoch; 0 trains all epochs.
    `keep_epochs` keeps the weights after each epoch, for test curves.
    """

    engine: Literal["torch", "numpy"]
    loss: Literal["cross_entropy", "nll", "mse"]
    label_smoothing: ShareOrZero
    optimizer: Optimizer
    schedule: Schedule
    batch_size: Count
    epochs: Annotated[int, Field(ge=1, le=10_000)]
    shuffle: bool
    augmentation: Augmentation | None
    ema: ShareOrZero
    patience: Annotated[int, Field(ge=0)]
    keep_epochs: bool
    seed: Seed

    @property
    def gives_logits(self) -> bool:
        """Whether the softmax of the model's outputs gives probabilities."""
        return self.loss != "mse"


class Expectation(Section):
    """The result of a run of this recipe. `idxflow recipes` shows it; no stage reads it."""

    dataset: str
    accuracy: Accuracy
    seconds: Annotated[float, Field(gt=0)]


class Recipe(Section):
    """A model and its training. `competes`: whether the model may become champion.

    `floors` are the lowest test accuracies, by data set, with which it may.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
    description: str
    expected: Expectation | None = None
    competes: bool
    floors: dict[str, Accuracy] = Field(default_factory=dict)
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
        if training.patience and self.split.validation.kind == "none":
            raise ValueError("patience needs validation rows: split.validation of kind last")
        return self
