# Narrow stub: only what docs/examples uses of scikit-learn.
#
# Why: scikit-learn 1.9 ships neither annotations for strict checkers nor a py.typed marker.
# When it can go: as soon as a scikit-learn release ships py.typed.
