# red - (green + blue) / 2, averaged over the pixels; needs no model.
reward = dict(type='RednessReward')
