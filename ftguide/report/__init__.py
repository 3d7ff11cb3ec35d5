"What a run leaves behind: its folder of models, and report.json as a page."
