"What every stage runs on, written by hand; a lesson imports it and shows what it does."
