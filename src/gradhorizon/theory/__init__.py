r"""Closed forms of how gradients grow or decay through time: oracles in tests, dashed lines in figures.

Every rate is in nats per step: a gradient that is multiplied by the factor a in each step has rate ln a, so that 0
means that nothing is lost, and ln ½ that half is lost per step. Every function states what it assumes; where a network
breaks the assumption, its measured profile departs from the line, and that departure is a finding.

Imports neither torch nor the rest of the project.
"""

from gradhorizon.theory.diagonal import (
    diagonal_growth_rates,
    diagonal_profile,
    ring_second_moment,
    stationary_sensitivity_of_diagonal,
    stationary_variance_of_diagonal,
)
from gradhorizon.theory.gated import (
    chrono_profile,
    chrono_time_scale_quantiles,
    expected_decay_of_forget_bias,
    gru_growth_rates,
    lstm_growth_rates,
    time_scale_of_forget_bias,
)
from gradhorizon.theory.linear import identity_relu_growth_rate, scaled_orthogonal_growth_rate
from gradhorizon.theory.precision import underflow_lag
from gradhorizon.theory.random_networks import (
    mean_field_tanh_growth_rate,
    mean_field_tanh_mean_exponent,
    mean_field_tanh_variance,
    newman_exponents,
)

__all__ = [
    "chrono_profile",
    "chrono_time_scale_quantiles",
    "diagonal_growth_rates",
    "diagonal_profile",
    "expected_decay_of_forget_bias",
    "gru_growth_rates",
    "identity_relu_growth_rate",
    "lstm_growth_rates",
    "mean_field_tanh_growth_rate",
    "mean_field_tanh_mean_exponent",
    "mean_field_tanh_variance",
    "newman_exponents",
    "ring_second_moment",
    "scaled_orthogonal_growth_rate",
    "stationary_sensitivity_of_diagonal",
    "stationary_variance_of_diagonal",
    "time_scale_of_forget_bias",
    "underflow_lag",
]
