"""A reward from a package that does not install beside ViPO, served from an environment of its own.

Copy this file, change `score`, and start it with the Python of that environment, which needs NumPy and Pillow:

    /path/to/old/env/bin/python old_package_server.py 8321

The config then has reward=dict(type='RemoteReward', url='http://127.0.0.1:8321'). Samples go through one at a time.
"""

import base64
import io
import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
from PIL import Image


def score(frames, prompt, record):
    """One number for a sample, or None where it has none. frames: (F, Y, X, 3) uint8; record: of the prompt file."""
    return float(frames[..., 0].mean() / 255)  # here the old package is called


def answer(request):
    if request['version'] != 1:
        raise ValueError('this server speaks version 1 of the protocol')
    records = request.get('metadata') or [{}] * len(request['samples'])
    scores = []
    for sample, prompt, record in zip(request['samples'], request['prompts'], records):
        pictures = [Image.open(io.BytesIO(base64.b64decode(frame))) for frame in sample['frames']]
        scores.append(score(np.stack([np.asarray(picture) for picture in pictures]), prompt, record))
    return {'version': 1, 'id': request['id'], 'scores': scores, 'valid': [s is not None for s in scores]}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.reply(200, {'version': 1, 'name': 'old package', 'scores': 'how red a picture is'})

    def do_POST(self):
        try:
            self.reply(200, answer(json.loads(self.rfile.read(int(self.headers['Content-Length'])))))
        except Exception as error:  # a status other than 200: no score is taken from it
            self.reply(500, {'error': repr(error), 'sample': None})

    def reply(self, status, message):
        body = json.dumps(message, allow_nan=False).encode()
        self.send_response(status)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == '__main__':
    HTTPServer.request_queue_size = 128  # several processes may ask at once
    server = HTTPServer(('127.0.0.1', int(sys.argv[1])), Handler)
    print('serving at http://127.0.0.1:%d' % server.server_port, flush=True)
    server.serve_forever()
