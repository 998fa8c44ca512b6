"""Drawing the action tokens of 16 model calls: inverse CDF, against torch.multinomial.

The last row takes the noise from one counter-based generator per trajectory and call, as training does, which makes
a draw independent of what else is in the batch; the second draws the noise with torch, as the baseline does.
"""

import torch

from benchmarks.measure import Figure, Variant, compare

NUM_CALLS, NUM_TOKENS, NUM_BINS = 16, 56, 256


def run(quick: bool) -> list[Figure]:
    """Returns the time per batch."""
    from policies.openvla_oft.sampling import log_probs_from_logits, sample_by_inverse_cdf
    from rllib_vla.connectors.env_to_module.add_sampling_noise import sampling_uniforms

    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(NUM_CALLS, NUM_TOKENS, NUM_BINS, generator=generator)
    log_probs = log_probs_from_logits(logits, 1.0)

    def multinomial() -> torch.Tensor:
        probs = log_probs.exp().view(-1, NUM_BINS)
        return torch.multinomial(probs, 1, generator=generator).view(NUM_CALLS, NUM_TOKENS)

    def inverse_cdf() -> torch.Tensor:
        return sample_by_inverse_cdf(log_probs, torch.rand(NUM_CALLS, NUM_TOKENS, generator=generator))

    def inverse_cdf_with_own_noise() -> torch.Tensor:
        rows = [
            torch.from_numpy(sampling_uniforms(seed=0, group_id=0, member=i, call=0, num_tokens=NUM_TOKENS))
            for i in range(NUM_CALLS)
        ]
        return sample_by_inverse_cdf(log_probs, torch.stack(rows))

    return compare(
        [
            Variant("torch.multinomial", multinomial),
            Variant("inverse CDF, torch's noise", inverse_cdf),
            Variant("inverse CDF, noise per trajectory", inverse_cdf_with_own_noise),
        ],
        rounds=5 if quick else 100,
    )
