"""``srum new``: small packages to start a plugin from."""
