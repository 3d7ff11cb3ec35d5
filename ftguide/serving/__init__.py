"Where a model meets its users: versions on disk, the page, the store of votes."
