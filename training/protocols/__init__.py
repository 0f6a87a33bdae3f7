"""Evaluation protocols: what a network scores with any subset of its modalities, and with damaged ones.

    any-modal    all 2^M - 1 non-empty subsets; an absent modality is marked absent
    conditions   any-modal per weather and per failure case
    emm          entire-missing: the absent modalities' images are zero, and every modality is marked present
    rmm          random-missing: of the absent ones' values 25, 50 or 75 % are zero; rmm-block: in blocks;
                 rmm-0.5 and the like: at one rate alone
    nm           noisy: salt and pepper and Gaussian noise on all of them, low, mid and high

Zeros and noise are put into normalised images. Sources: CMNeXt and AnySeg (any-modal); Liao et al., "Benchmarking
Multi-modal Semantic Segmentation under Sensor Failures", CVPRW 2025, with RobustSeg's and EQUISeg's tables (the rest).
"""

from training.protocols.prior import class_prior, score_prior
from training.protocols.scoring import merge, score, skipped
from training.protocols.subsets import Subset, all_subsets, key, singles_and_all
from training.protocols.trials import PROTOCOLS, Trial, counted, trials_of

__all__ = ["PROTOCOLS", "Subset", "Trial", "all_subsets", "class_prior", "counted", "key", "merge", "score",
           "score_prior", "singles_and_all", "skipped", "trials_of"]
