"""Instruction texts are read as data, and must be the published ones."""

import hashlib

import pytest

from vipo.rewards.templates import read_template


class TestTemplate:
    TEXT = 'Look at "{text_prompt}".  \nScore: <|VQ_reward|> <|MQ_reward|> <|TA_reward|> \n'
    SHA256 = hashlib.sha256(TEXT.encode()).hexdigest()

    def read(self, tmp_path, name, content, sha256=SHA256):
        (tmp_path / name).write_text(content)
        return read_template(str(tmp_path / name), sha256, 'https://example.org/it.py')

    def test_source_is_parsed_and_not_run(self, tmp_path):
        source = f'import os\nos.mkdir({str(tmp_path / "boom")!r})\nOTHER = "x"\nASKED = {self.TEXT!r}\n'
        assert self.read(tmp_path, 'prompts.py', source) == self.TEXT
        assert not (tmp_path / 'boom').exists()

    def test_two_constants_may_make_it_up(self, tmp_path):
        source = f'TAIL = {self.TEXT[20:]!r}\nHEAD = {self.TEXT[:20]!r}\n'
        assert self.read(tmp_path, 'prompts.py', source) == self.TEXT

    def test_text_file(self, tmp_path):
        assert self.read(tmp_path, 'prompt.txt', self.TEXT) == self.TEXT
        assert self.read(tmp_path, 'own.txt', 'My {text_prompt}', sha256=None) == 'My {text_prompt}'

    @pytest.mark.parametrize(
        ('name', 'content', 'sha256', 'match'),
        [
            ('prompts.py', f'ASKED = {TEXT.replace("  ", " ")!r}', SHA256, 'blanks at the ends of lines count'),
            ('prompt.txt', TEXT.strip(), SHA256, 'blanks at the ends of lines count'),
            ('prompts.py', 'not python at all(', SHA256, 'no Python source'),
            ('own.txt', 'no field', None, 'must contain {text_prompt} once'),
            ('own.txt', '{text_prompt} {other}', None, 'must contain {text_prompt} once'),
            ('own.txt', '{text_prompt', None, 'is no template'),
            ('own.py', 'A = "{text_prompt}"', None, 'must be a text file'),
        ],
    )
    def test_other_texts_are_refused(self, tmp_path, name, content, sha256, match):
        with pytest.raises(ValueError, match=match):
            self.read(tmp_path, name, content, sha256)
