# Minus the kilobytes of a picture as a JPEG; prefer='large' is incompressibility.
reward = dict(type='CompressibilityReward', prefer='small', quality=95)
