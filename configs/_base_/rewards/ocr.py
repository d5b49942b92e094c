# The text that prompts ask for between double quotes, read with RapidOCR: pip install 'vipo[ocr]'.
reward = dict(type='OCRReward')
