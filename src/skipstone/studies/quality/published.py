"""Published FIDs on CIFAR-10, unconditional, by the network of EDM's vp model: quality against evaluations.

They stand in the papers of DPM-Solver-v3 (Zheng et al. 2023), AMED (Zhou et al. 2024) and GITS (Chen et al. 2024).
"""

BASE = "DDIM"  # Euler on rho = 7 steps: what shares are of

FID = {
    "DDIM": {3: 93.4, 4: 66.8, 5: 49.7, 6: 35.6, 8: 22.3, 10: 15.7},
    "DPM-Solver++": {3: 110.0, 4: 46.5, 5: 25.0, 6: 12.0, 8: 4.54, 10: 3.00},
    "UniPC": {3: 110.0, 4: 45.2, 5: 24.0, 6: 11.1, 8: 3.99, 10: 2.89},
    "DEIS-tAB": {3: 56.0, 4: 25.7, 5: 14.4, 6: 9.40, 8: 5.55, 10: 4.09},
    "iPNDM": {3: 48.0, 4: 24.8, 5: 13.6, 6: 7.05, 8: 3.69, 10: 2.77},
    "DPM-Solver-v3": {5: 12.2, 6: 8.56, 8: 3.50, 10: 2.51},
    "iPNDM on GITS' steps": {5: 8.38, 6: 4.88, 8: 3.24, 10: 2.49},
}


def share(name: str, nfe: int) -> float | None:
    """A solver's FID as a share of DDIM's at the same number of evaluations; None where nothing is published."""
    own = FID.get(name, {}).get(nfe)
    return None if own is None else own / FID[BASE][nfe]
