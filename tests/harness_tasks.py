"""Small tasks for lm-eval, one of each kind of request."""

import json
import random

COMMON = """
dataset_path: json
test_split: test
dataset_kwargs: {{data_files: {{test: {data}}}}}
task: {name}
"""
TASKS = {
    'pairs': """
output_type: multiple_choice
doc_to_text: ""
doc_to_target: 0
doc_to_choice: "{{[good, bad]}}"
metric_list: [{metric: acc}]
""",
    'last': """
output_type: loglikelihood
doc_to_text: "{{text.split(' ')[:-1]|join(' ')}}"
doc_to_target: "{{' ' + text.split(' ')[-1]}}"
metric_list: [{metric: perplexity, aggregation: perplexity, higher_is_better: false}]
""",
    'rolling': """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: byte_perplexity}]
""",
    'open': """
output_type: generate_until
doc_to_text: "{{text[:60]}}"
doc_to_target: "{{text[60:]}}"
generation_kwargs: {until: ["e", "zz"], max_gen_toks: 12, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
""",
}
WORDS = ['the', 'king', 'queens', 'of', 'night', 'and', 'a', 'sword', 'Höhe', 'so;', 'it', 'is', "n't"]


def write_tasks(folder, items=6):
    """A folder of YAML files and their data; what --suite=harness:FOLDER/NAME takes."""
    draw = random.Random(0)
    lines = []
    for number in range(items):
        words = draw.choices(WORDS, k=3 + 9 * number)
        good, bad = ' '.join(words[:8]), ' '.join(words[:8][::-1])
        lines.append(json.dumps({'text': ' '.join(words), 'good': good, 'bad': good if number == 1 else bad}))
    (folder / 'data.jsonl').write_text('\n'.join(lines) + '\n')
    for name, text in TASKS.items():
        (folder / f'{name}.yaml').write_text(text + COMMON.format(name=name, data=folder / 'data.jsonl'))
    return [str(folder / name) for name in TASKS]
