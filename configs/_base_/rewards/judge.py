# A vision language model behind vLLM or sglang that writes its scores. Start it first; docs/reward-service.md says how.
# The instruction is of this project: its scores are those of no published judge. UnifiedReward and others want their
# authors' own words, in template_file in place of template.
reward = dict(
    type='JudgeReward',
    url='http://127.0.0.1:8000/v1',
    # as the server names it: curl http://127.0.0.1:8000/v1/models
    model='Qwen/Qwen3-VL-8B-Instruct',
    template=(
        'This was made for the request: {prompt}\n'
        'How well does it show what was asked for, and how good does it look? Give each a number from 1 (not at all) '
        'to 5 (perfectly); halves are allowed. Answer in two lines and nothing else:\n'
        'Match: <number>\n'
        'Looks: <number>'
    ),
    # name of a part -> regular expression whose group is its number
    patterns=dict(match=r'Match:\s*([\d.]+)', looks=r'Looks:\s*([\d.]+)'),
    # an answer with a number outside is invalid, and its sample is masked out
    low=1.0,
    high=5.0,
    # the patterns are tried on it at build
    example='Match: 3.5\nLooks: 4',
    weights=dict(match=0.5, looks=0.5),
    # of every number: scores lie in 0.2 to 1
    scale=0.2,
    # of a clip, evenly spaced
    frames=16,
    concurrency=8,
    timeout=300.0,
    retries=5,
)
