"""What a UniPercept or ArtiMuse checkpoint says about an image: chat, letter answers, analyses, profiles.

    transcript   a conversation as the published code writes it
    decoding     writing answers on one shared prefix, a token at a time
    chat         Chat: questions about images, one or many at once
    vqa          multiple-choice questions, answered by letter
    analysis     the published analysis questions, all asked of each image
    structure    the structure annotation of an image: from text to checked objects
    richness     the paper's ISTA formula on such an annotation
    profile      ratings, analyses, structure and its richness, for each image
    rows         images in, JSON lines out, resumable
    command      the command line: chat, vqa, analyse, profile

Importing this package loads neither torch nor transformers.
"""
