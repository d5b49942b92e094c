# A reward in another process, started there with tools/serve_reward.py; see docs/reward-service.md.
reward = dict(type='RemoteReward', url='http://127.0.0.1:8321', batch_size=16, concurrency=2, timeout=120.0, retries=5)
